"""Small runs of rotated detection, in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from itpn_ray.data.config import RotatedAugmentConfig
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.rotated_detection.config import RotatedDetection
from tests.training.runs import tiny


def rotated(turned: str, out: Path, **changes: Any) -> ExperimentConfig:
    """Four steps of a nano detector on tiles of 64 px, with everything random on."""
    config = dataclasses.replace(
        tiny(turned, out),
        model=ModelConfig(name="fast_itpn_nano", image_size=64, drop_path=0.2),
        task=RotatedDetection(small_head=True, short_side=64, long_side=64, ema_decay=0.5),
        optim=OptimConfig(
            global_batch=4, epochs=1, warmup_epochs=0, warmup_steps=2, lr=1e-3, lr_milestones=(0.7,)
        ),
        augment=RotatedAugmentConfig(side=64, quarter_turn=0.5, rotation=0.5),
    )
    return dataclasses.replace(config, **changes)
