"""Semantic segmentation on ADE20K (paper, 5.3; Tables 5 and 6): 160,000 steps of 16 crops.

With UPerNet the rate, the layer decay of B and L and the stochastic depth are those of the authors'
configurations; the other sizes take the layer decay of their fine-tuning. Of MaskDINO nothing is
published: the settings of its own authors for ADE20K are taken.
"""

from __future__ import annotations

import dataclasses
from typing import cast

from itpn_ray.data.config import SegmentationAugmentConfig
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.recipes.dense import SIZES, cluster, laptop
from itpn_ray.recipes.paper import Recipe, by_name
from itpn_ray.tasks.segmentation.config import Segmentation

EPOCHS = 160_000 / (20_210 // 16)
"""160,000 steps, with the steps that an epoch of ADE20K's training images has."""
TITLES = {"upernet": "UPerNet", "mask_dino": "MaskDINO"}
SIDES = (512, 640)
"""Of the crops that are trained on, pixels; the paper's first."""
EXPECTED = {
    "itpn_base_upernet": "53.5 % mIoU after 1600 epochs on pixels, 52.2 % after 400, 51.8 % with "
    "--task.init-pyramid false (Table 8); with --model.drop-path 0.2 54.7 % after 800 on CLIP-B, "
    "55.3 % after 1600 on CLIP-L (Table 6)",
    "itpn_large_upernet": "56.1 % mIoU after 1600 epochs on pixels, 57.7 % after 300 on CLIP-L",
    "fast_itpn_base_upernet": "55.8 % mIoU",
    "fast_itpn_tiny_mask_dino": "53.2 % mIoU",
    "fast_itpn_small_mask_dino": "54.6 % mIoU",
    "fast_itpn_base_mask_dino": "57.5 % mIoU; 58.2 % from the weights of "
    "`itpn-ray detect fast_itpn_base_dino_objects365`",
    "fast_itpn_large_mask_dino": "58.7 % mIoU",
    "itpn_large_mask_dino": "57.9 % mIoU after 1600 epochs on pixels",
}
"""What the paper reports; of the other recipes it reports nothing."""


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


def nano_mask_dino() -> ExperimentConfig:
    """Nano MaskDINO on images of about 128 pixels, for a laptop or a test.

    Command: itpn-ray segment nano_mask_dino --data DATA --model.init WEIGHTS
    """
    return _with_queries("mask_dino", lr=5e-4)


def nano_eomt() -> ExperimentConfig:
    """Nano trunk with a light head of queries on images of about 128 pixels.

    Command: itpn-ray segment nano_eomt --data DATA --model.init WEIGHTS
    """
    return _with_queries("eomt", lr=1e-3)


def _with_queries(head: str, lr: float) -> ExperimentConfig:
    base = nano()
    return dataclasses.replace(
        base,
        task=dataclasses.replace(
            cast(Segmentation, base.task), head=head, width=0, small_head=True
        ),
        optim=dataclasses.replace(base.optim, lr=lr, clip_norm=0.1),
    )


def _make(network: str, head: str) -> ExperimentConfig:
    optim = _mask_dino() if head == "mask_dino" else _upernet(network)
    return ExperimentConfig(
        task=Segmentation(head=head),
        optim=optim,
        augment=SegmentationAugmentConfig(),
        eval_every=13,  # 16,000 steps
        **cluster(network, 0.1 if network == "itpn_base" else 0.2, workers="8"),
    )


def _upernet(network: str) -> OptimConfig:
    return OptimConfig(
        global_batch=16,
        micro_batch=2,
        epochs=EPOCHS,
        warmup_epochs=0,
        warmup_steps=1500,
        lr=3e-5,
        linear=True,
        beta2=0.999,
        layer_decay=SIZES[network].layer_decay,
    )


def _mask_dino() -> OptimConfig:
    """A tenth of the rate for the trunk, no layer decay; falls after 135,000 and 150,000 steps."""
    return OptimConfig(
        global_batch=16,
        micro_batch=2,
        epochs=EPOCHS,
        warmup_epochs=0,
        lr=1e-4,
        lr_milestones=(135 / 160, 150 / 160),
        beta2=0.999,
        backbone_lr_scale=0.1,
        clip_norm=0.01,
    )


def _recipe(network: str, head: str, side: int) -> Recipe:
    """The recipe of a network, with a docstring as those that are written out."""
    name, size = f"{network}_{head}", ""
    if side != SIDES[0]:
        name, size = f"{name}_{side}", f" at {side} pixels"

    def recipe() -> ExperimentConfig:
        return dataclasses.replace(_at(_make(network, head), side), run=name)

    recipe.__name__ = name
    recipe.__doc__ = f"""{SIZES[network].title} with {TITLES[head]}, 160,000 steps{size}.

    Command: itpn-ray segment {name} --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan segment`
    Expected: {EXPECTED.get(name, "not in the paper")}
    Source: 5.3 and Table {5 if network.startswith("itpn") and head == "upernet" else 6}
    """
    return recipe


def _at(config: ExperimentConfig, side: int) -> ExperimentConfig:
    """A run on crops of another side, and windows of it in evaluation."""
    task = dataclasses.replace(
        cast(Segmentation, config.task),
        short_side=side,
        long_side=4 * side,
        window=side,
        stride=round(side * 2 / 3),
    )
    augment = dataclasses.replace(
        cast(SegmentationAugmentConfig, config.augment),
        short_side=side,
        long_side=4 * side,
        crop_size=side,
    )
    return dataclasses.replace(config, task=task, augment=augment)


RECIPES: dict[str, Recipe] = by_name(
    nano,
    nano_mask_dino,
    nano_eomt,
    *(_recipe(network, head, side) for side in SIDES for head in TITLES for network in SIZES),
)
"""Name on the command line -> recipe."""
