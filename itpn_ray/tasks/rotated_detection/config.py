"""Settings of rotated detection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray.data.config import Augmentation, RotatedAugmentConfig
from itpn_ray.metrics import ROTATED, Metric
from itpn_ray.tasks.config import DenseTaskConfig


@dataclass(frozen=True, kw_only=True)
class RotatedDetection(DenseTaskConfig):
    """Detection of turned boxes in tiles of aerial images (paper, 5.3 and Table 7).

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: ClassVar[str] = "rotated_detection"
    implementation: ClassVar[str] = "itpn_ray.tasks.rotated_detection.task:RotatedDetectionTask"
    title: ClassVar[str] = "Rotated detection"
    kinds: ClassVar[tuple[str, ...]] = ("rotated_rcnn",)
    metrics: ClassVar[tuple[Metric, ...]] = ROTATED
    augmentation: ClassVar[type[Augmentation]] = RotatedAugmentConfig
    speed_fields: ClassVar[tuple[str, ...]] = (
        *DenseTaskConfig.view_fields,
        "small_head",
    )

    small_head: bool = False
    """A head of few and narrow layers that looks at fewer boxes, for laptops and tests."""
    short_side: int = 1024
    """Shorter side of a tile in evaluation, pixels, unless its longer one gets too long."""
    long_side: int = 1024
    """Longest side of a tile in evaluation, pixels."""
