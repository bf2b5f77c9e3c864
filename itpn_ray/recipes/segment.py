"""Semantic segmentation on ADE20K (paper, 5.3; Tables 5 and 6): UPerNet, 160,000 steps of 16 crops.

The rate, the layer decay of B and L and the stochastic depth are those of the authors'
configurations; the other sizes take the layer decay of their fine-tuning. Tables 6's figures of
MaskDINO are told for comparison; there is no such head here.
"""

from __future__ import annotations

import dataclasses

from itpn_ray.data.config import SegmentationAugmentConfig
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.recipes.dense import SIZES, cluster, laptop
from itpn_ray.recipes.paper import Recipe, by_name
from itpn_ray.tasks.segmentation.config import Segmentation

STEPS = 160_000
STEPS_PER_EPOCH = 20_210 // 16
"""Of ADE20K's training images."""
EXPECTED = {
    "itpn_base_upernet": "53.5 % mIoU after 1600 epochs on pixels, 52.2 % after 400, 51.8 % with "
    "--task.init-pyramid false (Table 8); with --model.drop-path 0.2 54.7 % after 800 on CLIP-B",
    "itpn_large_upernet": "56.1 % mIoU after 1600 epochs on pixels, 57.7 % after 300 on CLIP-L",
    "fast_itpn_tiny_upernet": "not in the paper; 53.2 % mIoU with MaskDINO",
    "fast_itpn_small_upernet": "not in the paper; 54.6 % mIoU with MaskDINO",
    "fast_itpn_base_upernet": "55.8 % mIoU; 57.5 % with MaskDINO",
    "fast_itpn_large_upernet": "not in the paper; 58.7 % mIoU with MaskDINO",
}
"""What the paper reports."""


def nano() -> ExperimentConfig:
    """Nano UPerNet on images of about 128 pixels, for a laptop or a test.

    Command: itpn-ray segment nano --data DATA --model.init out/pretrain/exported/model.safetensors
    """
    return ExperimentConfig(
        run="segment",
        task=Segmentation(width=64, short_side=128, long_side=512, window=128, stride=85),
        augment=SegmentationAugmentConfig(short_side=128, long_side=512, crop_size=128),
        **laptop(linear=True),
    )


def _make(network: str) -> ExperimentConfig:
    return ExperimentConfig(
        task=Segmentation(),
        optim=OptimConfig(
            global_batch=16,
            micro_batch=2,
            epochs=STEPS / STEPS_PER_EPOCH,
            warmup_epochs=0,
            warmup_steps=1500,
            lr=3e-5,
            linear=True,
            beta2=0.999,
            layer_decay=SIZES[network].layer_decay,
        ),
        augment=SegmentationAugmentConfig(),
        eval_every=13,  # 16,000 steps
        **cluster(network, 0.1 if network == "itpn_base" else 0.2, workers="8"),
    )


def _recipe(network: str) -> Recipe:
    """The recipe of a network, with a docstring as those that are written out."""
    name = f"{network}_upernet"

    def recipe() -> ExperimentConfig:
        return dataclasses.replace(_make(network), run=name)

    recipe.__name__ = name
    recipe.__doc__ = f"""{SIZES[network].title} with UPerNet, 160,000 steps.

    Command: itpn-ray segment {name} --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan segment`
    Expected: {EXPECTED[name]}
    Source: 5.3 and Table {5 if network.startswith("itpn") else 6}
    """
    return recipe


RECIPES: dict[str, Recipe] = by_name(nano, *map(_recipe, SIZES))
"""Name on the command line -> recipe."""
