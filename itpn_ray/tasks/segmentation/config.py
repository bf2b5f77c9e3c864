"""Settings of semantic segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.data.config import Augmentation, SegmentationAugmentConfig
from itpn_ray.errors import ConfigError
from itpn_ray.metrics import SEGMENTATION, Metric
from itpn_ray.models.segmentation.config import HEADS, PIXELWISE
from itpn_ray.tasks.config import DenseTaskConfig


@dataclass(frozen=True, kw_only=True)
class Segmentation(DenseTaskConfig):
    """Semantic segmentation (paper, 5.3).

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: ClassVar[str] = "segmentation"
    implementation: ClassVar[str] = "itpn_ray.tasks.segmentation.task:SegmentationTask"
    title: ClassVar[str] = "Segmentation"
    kinds: ClassVar[tuple[str, ...]] = ("segmenter", "mask_dino", "eomt")
    metrics: ClassVar[tuple[Metric, ...]] = SEGMENTATION
    augmentation: ClassVar[type[Augmentation]] = SegmentationAugmentConfig
    speed_fields: ClassVar[tuple[str, ...]] = (
        *DenseTaskConfig.view_fields,
        *("head", "width", "small_head"),
        *("window", "stride", "scales", "mirror"),
    )

    head: str = "upernet"
    """What finds the classes: ``upernet`` or ``mask_dino``; or to measure them by, two light heads:
    ``mlp`` of pixels and ``eomt`` of queries."""
    width: int = 0
    """Channels of the head; 0: those of trunk and pyramid together at stride 16 for ``upernet`` and
    ``mlp`` (the authors'), 256 for the others."""
    small_head: bool = False
    """``mask_dino`` and ``eomt`` with few and narrow layers and points, for laptops and tests."""
    short_side: int = 512
    """Shorter side of an image in evaluation, pixels, unless its longer one gets too long."""
    long_side: int = 2048
    """Longest side of an image in evaluation, pixels."""
    window: int = 512
    """Side of the windows that an image is evaluated in, pixels; 0: whole images."""
    # Two thirds of a window, as in BEiT's configurations.
    stride: int = 341
    """Pixels from window to window."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes at which an image is seen in evaluation, such as 0.5 0.75 1 1.25 1.5 1.75."""
    mirror: bool = False
    """See an image mirrored too in evaluation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("task.head", self.head, HEADS)
        checks.not_negative("task.width", self.width)
        if self.small_head and self.head in PIXELWISE:
            raise ConfigError(
                "task.small_head", True, f"{self.head} has none", "Use --task.width 64"
            )
        if self.head == "mask_dino" and self.width % 64:
            raise ConfigError(
                "task.width", self.width, "is no multiple of 64", "Use 64, 128 or 256"
            )
        checks.not_negative("task.window", self.window)
        for scale in self.scales:
            checks.in_range("task.scales", scale, 0.1, 10.0)
        if self.window:
            checks.in_range("task.stride", self.stride, 1, self.window)
