"""Settings of rotated detection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.data.config import Augmentation, RotatedAugmentConfig
from itpn_ray.metrics import ROTATED, Metric
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.detection.config import DetectorSettings


@dataclass(frozen=True, kw_only=True)
class RotatedDetection(DetectorSettings):
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

    side: int = 1024
    """Longer side of a tile in evaluation, pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("task.side", self.side)

    def input_side(self, model: ModelConfig) -> tuple[int, str]:
        """That of tiles in evaluation."""
        return self.side, "--task.side"
