"""What the demo trains: the nano recipes, at 128 pixels, from the network that the package carries.

At 128 pixels stage 3 has 64 tokens, enough for r to matter.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

from itpn_ray.commands.demo.config import DemoConfig
from itpn_ray.data.config import LoaderConfig
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.recipes import detect, finetune, pretrain
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tuning.config import SweepConfig

START = "zoo:nano_clothing10"
SIDE = 128
"""Pixels."""
RATIOS = (0.0, 0.4, 0.8)
"""Values of r that one network serves."""
CPUS = 2.0
"""Compute threads of the runs that have the machine to themselves."""
BATCH = 32
"""Images a step: there are few images, and so there are more steps."""
IN_PROCESS: dict[str, Any] = {"workers": "0", "loader": LoaderConfig(transport="threads")}
"""Without Ray's workers, whose start would take longer than the training."""


def pretraining(config: DemoConfig, folder: Path, data: str) -> ExperimentConfig:
    """The embedded network's pre-training, continued on all training images under Ray Train."""
    recipe = pretrain.nano()
    return dataclasses.replace(
        recipe,
        cpus_per_worker=CPUS,
        data=data,
        out=str(folder),
        model=dataclasses.replace(recipe.model, image_size=SIDE, init=START),
        # A tenth of the recipe's rate: a higher one undoes what the network has learned.
        optim=dataclasses.replace(
            recipe.optim, global_batch=BATCH, epochs=config.pretrain_epochs, lr=1e-4
        ),
        eval_every=4,
    )


def finetuning(
    config: DemoConfig, folder: Path, data: str, *, init: str, seed: int
) -> ExperimentConfig:
    """A fine-tuning from pre-trained weights, or from random ones where ``init`` is empty."""
    recipe = _small_finetuning(config.finetune_epochs)
    return dataclasses.replace(
        recipe,
        **IN_PROCESS,
        run=f"{'finetune' if init else 'scratch'}-{seed}",
        seed=seed,
        cpus_per_worker=CPUS,
        data=data,
        out=str(folder),
        model=dataclasses.replace(recipe.model, init=init),
        eval_every=0,
    )


def tuning(config: DemoConfig, folder: Path, data: str, init: str) -> SweepConfig:
    """A sweep of which each trial serves all `RATIOS`."""
    recipe = _small_finetuning(max(1, config.finetune_epochs / 2))
    return SweepConfig(
        out=str(folder),
        data=data,
        trials=config.trials,
        space=("optim.lr log 5e-4 5e-3", "optim.layer_decay uniform 0.6 1"),
        grace_epochs=1,
        speed_batch=64,
        finetune=dataclasses.replace(
            recipe,
            loader=LoaderConfig(transport="threads"),
            model=dataclasses.replace(recipe.model, init=init, elastic_migration=RATIOS),
            eval_every=1,
        ),
    )


def detection(config: DemoConfig, folder: Path, data: str, init: str) -> ExperimentConfig:
    """A detector on the pre-trained trunk and pyramid."""
    recipe = detect.nano()
    return dataclasses.replace(
        recipe,
        workers="0",
        loader=dataclasses.replace(recipe.loader, transport="threads"),
        cpus_per_worker=CPUS,
        data=data,
        out=str(folder),
        task=dataclasses.replace(cast(Detection, recipe.task), masks=False),
        model=dataclasses.replace(recipe.model, init=init),
        optim=dataclasses.replace(recipe.optim, epochs=config.detect_epochs),
        eval_every=0,
    )


def _small_finetuning(epochs: float) -> ExperimentConfig:
    recipe = finetune.nano()
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, image_size=SIDE),
        # A hundred steps are few: the trunk must move as fast as the head.
        optim=dataclasses.replace(
            recipe.optim,
            global_batch=BATCH,
            epochs=epochs,
            warmup_epochs=min(1, epochs / 2),
            layer_decay=1.0,
        ),
    )
