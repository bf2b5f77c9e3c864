"""Settings of object detection and instance segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.data.config import Augmentation, DetectionAugmentConfig
from itpn_ray.errors import ConfigError
from itpn_ray.metrics import AVERAGE_PRECISION, Metric
from itpn_ray.tasks.config import DenseTaskConfig

HEADS = ("mask_rcnn", "cascade_mask_rcnn", "dino")


@dataclass(frozen=True, kw_only=True)
class Detection(DenseTaskConfig):
    """Object detection and instance segmentation (paper, 5.3).

    Raises:
        ConfigError: a value lies outside its range, or DINO is asked for masks.
    """

    name: ClassVar[str] = "detection"
    implementation: ClassVar[str] = "itpn_ray.tasks.detection.task:DetectionTask"
    title: ClassVar[str] = "Detection"
    kinds: ClassVar[tuple[str, ...]] = ("rcnn", "dino")
    metrics: ClassVar[tuple[Metric, ...]] = AVERAGE_PRECISION
    augmentation: ClassVar[type[Augmentation]] = DetectionAugmentConfig

    head: str = "mask_rcnn"
    """What finds the objects: ``mask_rcnn``, ``cascade_mask_rcnn`` or ``dino``."""
    masks: bool = True
    """Find masks besides boxes; DINO has none."""
    small_head: bool = False
    """A head of few and narrow layers that looks at fewer boxes, for laptops and tests."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("task.head", self.head, HEADS)
        if self.masks and self.head == "dino":
            raise ConfigError("task.masks", True, "DINO finds boxes only", "Add --task.masks false")
