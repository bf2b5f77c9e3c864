"""Fine-tuning on images with several labels each; the paper has none.

Networks, rates and epochs are those of classification on ImageNet-1K (paper, 5.2).
"""

from __future__ import annotations

import dataclasses

from itpn_ray.experiment import ExperimentConfig
from itpn_ray.recipes import finetune
from itpn_ray.recipes.paper import Recipe, by_name
from itpn_ray.tasks.multilabel.config import MultiLabel


def nano_multilabel() -> ExperimentConfig:
    """Nano network at 64 px on images with several labels, for a laptop or a test.

    Command: itpn-ray finetune nano_multilabel --data DATA --model.init WEIGHTS
    """
    return dataclasses.replace(finetune.nano(), task=MultiLabel(ema_decay=0.98))


def _recipe(base: Recipe) -> Recipe:
    """A recipe of classification, with a yes or no to each class."""
    name = f"{base.__name__}_multilabel"

    def recipe() -> ExperimentConfig:
        return dataclasses.replace(base(), run=f"{name}_ft", task=MultiLabel())

    recipe.__name__ = name
    recipe.__doc__ = f"""{(base.__doc__ or "").split(",")[0]}, on images with several labels.

    Command: itpn-ray finetune {name} --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: not in the paper
    Source: 5.2, whose rates and epochs are for one label an image
    """
    return recipe


RECIPES: dict[str, Recipe] = by_name(
    nano_multilabel,
    _recipe(finetune.fast_itpn_tiny),
    _recipe(finetune.fast_itpn_small),
    _recipe(finetune.fast_itpn_base),
    _recipe(finetune.fast_itpn_large),
)
"""Name on the command line -> recipe."""
