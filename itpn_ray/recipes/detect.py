"""Detection on COCO and Objects365 (paper, 5.3; Tables 5 and 6).

The authors published configurations of iTPN-B (Mask R-CNN 1x and 3x, Cascade Mask R-CNN 3x) and of
iTPN-L (Mask R-CNN 1x); the rates are theirs (5.3 has 3e-4 for all). The other sizes take those of
the same schedule, with the layer decay of their fine-tuning. Of DINO nothing is published: the
settings of its own authors are taken.
"""

from __future__ import annotations

import dataclasses
from typing import cast

from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.recipes.dense import SIZES, cluster, laptop
from itpn_ray.recipes.paper import Recipe, by_name
from itpn_ray.tasks.detection.config import Detection

DROPS = (9 / 12, 11 / 12)
"""Fractions of the run after which the rate falls to a tenth (5.3)."""

TITLES = {
    "mask_rcnn_1x": "Mask R-CNN, 12 epochs",
    "mask_rcnn_3x": "Mask R-CNN, 36 epochs",
    "cascade_3x": "Cascade Mask R-CNN, 36 epochs",
    "dino": "DINO, 12 epochs",
}
TABLES = {schedule: "Table 6" if schedule == "dino" else "Table 5" for schedule in TITLES}

EXPECTED = {
    "itpn_base_mask_rcnn_1x": "53.0 % box and 46.5 % mask AP after 1600 epochs on pixels; 52.1 % "
    "box AP after 400, 51.5 % with --task.init-pyramid false (Table 8)",
    "itpn_base_mask_rcnn_3x": "54.0 % box and 47.4 % mask AP after 1600 epochs on pixels",
    "itpn_base_cascade_3x": "56.0 % box and 48.5 % mask AP after 1600 epochs on pixels",
    "itpn_large_mask_rcnn_1x": "55.6 % box and 48.6 % mask AP after 1600 epochs on pixels",
    "fast_itpn_tiny_dino": "54.1 % box AP",
    "fast_itpn_small_dino": "55.8 % box AP",
    "fast_itpn_base_dino": "58.4 % box AP",
    "fast_itpn_large_dino": "58.8 % box AP",
    "itpn_base_dino": "56.1 % box AP after 1600 epochs on CLIP-L",
    "itpn_large_dino": "57.7 % box AP after 1600 epochs on pixels",
}
"""What the paper reports; of the other recipes it reports nothing."""


def nano() -> ExperimentConfig:
    """Nano Mask R-CNN on images of about 160 pixels, for a laptop or a test.

    Command: itpn-ray detect nano --data DATA --model.init out/pretrain/exported/model.safetensors
    """
    return ExperimentConfig(
        run="detect",
        task=Detection(small_head=True, short_side=160, long_side=256),
        augment=DetectionAugmentConfig(
            short_sides=(128, 144, 160, 176),
            long_side=256,
            crop_short_sides=(128, 160, 192),
            crop_size=(112, 192),
        ),
        **laptop(lr_milestones=DROPS),
    )


def nano_dino() -> ExperimentConfig:
    """Nano DINO on images of about 160 pixels, for a laptop or a test; boxes alone as it stands.

    Command: itpn-ray detect nano_dino --data DATA --model.init WEIGHTS
    """
    base = nano()
    return dataclasses.replace(
        base,
        task=dataclasses.replace(cast(Detection, base.task), head="dino", masks=False),
        optim=dataclasses.replace(base.optim, lr=5e-4, weight_decay=1e-4, clip_norm=0.1),
    )


def fast_itpn_base_dino_objects365() -> ExperimentConfig:
    """Fast-iTPN-B with DINO on Objects365, before COCO; the paper does not say how long.

    Command: itpn-ray detect fast_itpn_base_dino_objects365 --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan detect`
    Expected: not in the paper; then `itpn-ray detect fast_itpn_base_dino_6`
    Source: 5.3 and Table 6
    """
    base = _dino("fast_itpn_base")
    return dataclasses.replace(
        base,
        run="fast_itpn_base_dino_objects365",
        optim=dataclasses.replace(base.optim, global_batch=64, lr=2e-4),
        workers="32",
        eval_every=0,  # 80,000 images
    )


def fast_itpn_base_dino_6() -> ExperimentConfig:
    """Fast-iTPN-B with DINO, 6 epochs, from weights that were trained on Objects365.

    Command: itpn-ray detect fast_itpn_base_dino_6 --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan detect`
    Expected: 61.8 % box AP
    Source: 5.3 and Table 6
    """
    base = _dino("fast_itpn_base")
    return dataclasses.replace(
        base,
        run="fast_itpn_base_dino_6",
        optim=dataclasses.replace(base.optim, epochs=6, lr_milestones=(5 / 6,)),
    )


def _make(network: str, schedule: str) -> ExperimentConfig:
    if schedule == "dino":
        return _dino(network)
    if schedule == "cascade_3x":
        return _rcnn(network, "cascade_mask_rcnn", epochs=36, lr=1e-4, drop_path=0.2)
    if schedule == "mask_rcnn_3x":
        return _rcnn(network, "mask_rcnn", epochs=36, lr=1.5e-4, drop_path=0.3)
    return _rcnn(
        network, "mask_rcnn", epochs=12, lr=2e-4, drop_path=0.2 if SIZES[network].large else 0.05
    )


def _rcnn(
    network: str, head: str, *, epochs: float, lr: float, drop_path: float
) -> ExperimentConfig:
    return ExperimentConfig(
        task=Detection(head=head),
        optim=OptimConfig(
            global_batch=64,
            micro_batch=2,
            epochs=epochs,
            warmup_epochs=0,
            warmup_steps=500,
            lr=lr,
            lr_milestones=DROPS,
            beta2=0.999,
            layer_decay=SIZES[network].layer_decay,
        ),
        augment=DetectionAugmentConfig(),
        **cluster(network, drop_path, workers="32"),
    )


def _dino(network: str) -> ExperimentConfig:
    """A tenth of the rate for the trunk, no layer decay (DINO, appendix D)."""
    return ExperimentConfig(
        task=Detection(head="dino", masks=False),
        optim=OptimConfig(
            global_batch=16,
            micro_batch=2,
            epochs=12,
            warmup_epochs=0,
            lr=1e-4,
            lr_milestones=DROPS[1:],
            weight_decay=1e-4,
            beta2=0.999,
            backbone_lr_scale=0.1,
            clip_norm=0.1,
        ),
        augment=DetectionAugmentConfig(),
        **cluster(network, 0.2 if SIZES[network].large else 0.1, workers="8"),
    )


def _recipe(network: str, schedule: str) -> Recipe:
    """The recipe of a network and a schedule, with a docstring as those that are written out."""
    name = f"{network}_{schedule}"

    def recipe() -> ExperimentConfig:
        return dataclasses.replace(_make(network, schedule), run=name)

    recipe.__name__ = name
    recipe.__doc__ = f"""{SIZES[network].title} with {TITLES[schedule]}.

    Command: itpn-ray detect {name} --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan detect`
    Expected: {EXPECTED.get(name, "not in the paper")}
    Source: 5.3 and {TABLES[schedule]}
    """
    return recipe


RECIPES: dict[str, Recipe] = by_name(
    nano,
    nano_dino,
    *(_recipe(network, schedule) for network in SIZES for schedule in TITLES),
    fast_itpn_base_dino_objects365,
    fast_itpn_base_dino_6,
)
"""Name on the command line -> recipe."""
