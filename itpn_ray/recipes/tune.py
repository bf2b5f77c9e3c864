"""Sweeps, by default over λ, layer decay and r (paper, Table 9 and Fig. 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from itpn_ray.data.config import LoaderConfig
from itpn_ray.recipes import finetune, multilabel, pretrain
from itpn_ray.tuning.config import SweepConfig


def nano() -> SweepConfig:
    """Nano network at 64 px, for a laptop or a test.

    Command: itpn-ray tune nano --data DATA
    """
    before, after = pretrain.nano(), finetune.nano()
    return SweepConfig(
        run="tune",
        space=(
            "task.feature_weight choice 0 0.3",
            "optim.layer_decay uniform 0.8 1",
            "model.migration choice 0 0.1 0.2 0.3 0.4",
        ),
        grace_epochs=2,
        # In the sweep's own process: starting Ray's workers would take longer than the training.
        pretrain=dataclasses.replace(
            before,
            workers="0",
            cpus_per_worker=2.0,
            loader=LoaderConfig(transport="threads"),
            optim=dataclasses.replace(before.optim, epochs=3, warmup_epochs=0.5),
        ),
        finetune=dataclasses.replace(
            after,
            eval_every=1,
            loader=LoaderConfig(transport="threads"),  # a second less for each trial to start
            optim=dataclasses.replace(after.optim, epochs=4, warmup_epochs=0.5),
        ),
    )


def nano_multilabel() -> SweepConfig:
    """Nano network at 64 px on images with several labels, for a laptop or a test.

    Command: itpn-ray tune nano_multilabel --data DATA
    """
    base = nano()
    task = multilabel.nano_multilabel().task
    return dataclasses.replace(base, finetune=dataclasses.replace(base.finetune, task=task))


RECIPES: dict[str, Callable[[], SweepConfig]] = {"nano": nano, "nano_multilabel": nano_multilabel}
"""Name on the command line -> recipe."""
