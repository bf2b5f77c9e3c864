"""Rotated detection on DOTA (paper, 5.3 and Table 7).

The authors published no configuration. Epochs, drops and clipping are those of mmrotate's 1x; its
rate is for SGD and convolutions, so the optimiser is that of the authors' Mask R-CNN with half the
rate, for a quarter of the images: a tile holds many objects.
"""

from __future__ import annotations

import dataclasses

from itpn_ray.data.config import RotatedAugmentConfig
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.recipes.dense import SIZES, cluster, laptop
from itpn_ray.recipes.paper import Recipe, by_name
from itpn_ray.tasks.rotated_detection.config import RotatedDetection

DROPS = (8 / 12, 11 / 12)
"""Fractions of the run after which the rate falls to a tenth."""
CLIP = 35.0
EXPECTED = {
    "fast_itpn_base_rotated_1x": "79.3 % mAP; 79.0 % with --model.window 16 --model.gathering true "
    "--model.window-position windows, 1.5 times as fast",
}
"""What the paper reports; of the other recipes it reports nothing."""


def nano_rotated() -> ExperimentConfig:
    """Nano rotated Faster R-CNN on tiles of 256 pixels, for a laptop or a test.

    Command: itpn-ray detect nano_rotated --data DATA --model.init WEIGHTS
    """
    common = laptop(lr_milestones=DROPS, clip_norm=CLIP)
    return ExperimentConfig(
        run="detect",
        task=RotatedDetection(small_head=True, short_side=256, long_side=256),
        augment=RotatedAugmentConfig(side=256),
        **common,
    )


def _make(network: str) -> ExperimentConfig:
    large = SIZES[network].large
    return ExperimentConfig(
        task=RotatedDetection(),
        optim=OptimConfig(
            global_batch=16,
            micro_batch=2,
            epochs=12,
            warmup_epochs=0,
            warmup_steps=500,
            lr=1e-4,
            lr_milestones=DROPS,
            beta2=0.999,
            layer_decay=SIZES[network].layer_decay,
            clip_norm=CLIP,
        ),
        augment=RotatedAugmentConfig(),
        **cluster(network, 0.2 if large else 0.05, workers="8"),
    )


def _recipe(network: str) -> Recipe:
    """The recipe of a network, with a docstring as those that are written out."""
    name = f"{network}_rotated_1x"

    def recipe() -> ExperimentConfig:
        return dataclasses.replace(_make(network), run=name)

    recipe.__name__ = name
    recipe.__doc__ = f"""{SIZES[network].title} with rotated Faster R-CNN, 12 epochs.

    Command: itpn-ray detect {name} --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan detect`
    Expected: {EXPECTED.get(name, "not in the paper")}
    Source: 5.3 and Table 7
    """
    return recipe


RECIPES: dict[str, Recipe] = by_name(nano_rotated, *(_recipe(network) for network in SIZES))
"""Name on the command line -> recipe, of `itpn-ray detect`."""
