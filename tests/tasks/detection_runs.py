"""Small runs of detection, in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.tasks.config import Detection, ModelConfig
from tests.training.runs import tiny

AUGMENT = DetectionAugmentConfig(
    short_sides=(64, 80), long_side=96, crop_short_sides=(64, 72), crop_size=(48, 64)
)


def detection(scenes: str, out: Path, **changes: Any) -> ExperimentConfig:
    """Six steps of a nano Mask R-CNN on pictures of 64 to 96 px, with everything random on."""
    base = tiny(scenes, out)
    config = dataclasses.replace(
        base,
        model=ModelConfig(name="fast_itpn_nano", image_size=64, drop_path=0.2),
        task=Detection(small_head=True, short_side=64, long_side=96, ema_decay=0.5),
        optim=OptimConfig(
            global_batch=4, epochs=1.5, warmup_epochs=0, warmup_steps=2, lr=1e-3, drops=(0.8,)
        ),
        augment=AUGMENT,
    )
    return dataclasses.replace(config, **changes)
