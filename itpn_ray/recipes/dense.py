"""What the recipes of detection and segmentation share (paper, 5.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from itpn_ray.data.config import LoaderConfig
from itpn_ray.experiment import CheckpointConfig, OptimConfig
from itpn_ray.recipes.paper import CLUSTER
from itpn_ray.tasks.config import ModelConfig

PREFETCH = 64
"""Images decoded ahead: one of 800 x 1333 pixels takes 3 MB, a crop of 512 with its mask 1.3."""


@dataclass(frozen=True, kw_only=True)
class DenseSize:
    """What a network is trained with, whatever the head."""

    title: str
    """Its name in the paper."""
    layer_decay: float
    """As in its fine-tuning."""
    large: bool = False
    """Whether it needs activations computed anew, and more stochastic depth."""
    image_size: int = 224
    """Pixels of its pre-training."""


SIZES = {
    "fast_itpn_tiny": DenseSize(title="Fast-iTPN-T", layer_decay=0.80),
    "fast_itpn_small": DenseSize(title="Fast-iTPN-S", layer_decay=0.90),
    "fast_itpn_base": DenseSize(title="Fast-iTPN-B", layer_decay=0.90),
    "fast_itpn_large": DenseSize(title="Fast-iTPN-L", layer_decay=0.95, large=True, image_size=256),
    "itpn_base": DenseSize(title="iTPN-B", layer_decay=0.90),
    "itpn_large": DenseSize(title="iTPN-L", layer_decay=0.95, large=True),
}


def laptop(**optim: Any) -> dict[str, Any]:
    """What a nano run has but for its task and augmentation: 12 epochs of 8 images a step.

    Args:
        optim: how the rate falls.
    """
    return {
        "model": ModelConfig(name="fast_itpn_nano", image_size=64, drop_path=0.05),
        "optim": OptimConfig(
            global_batch=8,
            epochs=12,
            warmup_epochs=1,
            lr=1e-3,
            beta2=0.999,
            layer_decay=0.9,
            **optim,
        ),
        "loader": LoaderConfig(prefetch=PREFETCH),
        "checkpoint": CheckpointConfig(every_steps=200),
        "eval_every": 2,
    }


def cluster(network: str, drop_path: float, workers: str) -> dict[str, Any]:
    """What a run of the paper has but for its task, optimiser and augmentation.

    Args:
        network: one of `SIZES`.
        drop_path: stochastic depth.
        workers: GPUs.
    """
    size = SIZES[network]
    return CLUSTER | {
        "workers": workers,
        "model": ModelConfig(
            name=network,
            image_size=size.image_size,
            drop_path=drop_path,
            checkpoint_activations=size.large,
        ),
        "loader": LoaderConfig(threads=8, prefetch=PREFETCH),
    }
