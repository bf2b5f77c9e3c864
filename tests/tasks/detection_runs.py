"""Small runs of detection, in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from itpn_ray.data.config import DetectionAugmentConfig, LoaderConfig
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.detection.task import DetectionTask
from tests.training.runs import tiny

AUGMENT = DetectionAugmentConfig(
    short_sides=(64, 80), long_side=96, crop_short_sides=(64, 72), crop_size=(48, 64)
)
CLASSES = ("cup", "pen", "ball")


def detection(
    scenes: str,
    out: Path,
    head: str = "mask_rcnn",
    *,
    masks: bool | None = None,
    **changes: Any,
) -> ExperimentConfig:
    """Four steps of a nano detector on images of 64 to 96 px, with everything random on.

    Args:
        scenes: prepared images with objects.
        out: where runs are kept.
        head: of the task.
        masks: whether they are learned; None: by all heads but DINO.
        changes: other settings.
    """
    config = dataclasses.replace(
        tiny(scenes, out),
        model=ModelConfig(name="fast_itpn_nano", image_size=64, drop_path=0.2),
        task=Detection(
            head=head,
            masks=head != "dino" if masks is None else masks,
            small_head=True,
            short_side=64,
            long_side=96,
            ema_decay=0.5,
        ),
        optim=OptimConfig(
            global_batch=2, epochs=1, warmup_epochs=0, warmup_steps=2, lr=1e-3, lr_milestones=(0.7,)
        ),
        augment=AUGMENT,
    )
    return dataclasses.replace(config, **changes)


def task(
    head: str = "mask_rcnn", *, scenes: str = "", masks: bool | None = None, **model: Any
) -> DetectionTask:
    """A detection task by itself; ``scenes`` is what it evaluates on, ``masks`` as above."""
    plain = {"name": "fast_itpn_nano", "image_size": 64}
    config = Detection(
        head=head,
        masks=head != "dino" if masks is None else masks,
        small_head=True,
        short_side=64,
        long_side=96,
    )
    return DetectionTask(
        TaskSetup(
            config=config,
            model=ModelConfig(**{**plain, **model}),
            classes=CLASSES,
            seed=3,
            augment=AUGMENT,
            data=scenes,
            loader=LoaderConfig(transport="threads"),
        )
    )
