"""Settings of object detection and instance segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.data.config import Augmentation, DetectionAugmentConfig
from itpn_ray.errors import ConfigError
from itpn_ray.metrics import AVERAGE_PRECISION, Metric
from itpn_ray.tasks.config import ModelConfig, TaskConfig

HEADS = ("mask_rcnn", "cascade_mask_rcnn", "dino")


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(TaskConfig):
    """What the settings of all detectors have in common.

    Raises:
        ConfigError: a value lies outside its range.
    """

    small_head: bool = False
    """A head of few and narrow layers that looks at fewer boxes, for laptops and tests."""
    init_pyramid: bool = True
    """Take the pyramid of the initial weights too; false: draw it anew (paper, Table 8)."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are evaluated and exported, warmed up over a run's first
    steps; 0 turns them off."""

    def __post_init__(self) -> None:
        checks.in_range("task.ema_decay", self.ema_decay, 0.0, 1.0, open_high=True)

    def check_model(self, model: ModelConfig) -> None:
        """Refuse compilation.

        Raises:
            ConfigError: the network is to be compiled.
        """
        if model.compile:
            raise ConfigError(
                "model.compile",
                True,
                "would compile anew for each size of a batch's views",
                "Leave it out for detection",
            )

    @property
    def average(self) -> tuple[str, float]:
        """The weights that are evaluated and exported."""
        return ("evaluated and exported weights", self.ema_decay) if self.ema_decay else ("", 0.0)


@dataclass(frozen=True, kw_only=True)
class Detection(DetectorSettings):
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
    short_side: int = 800
    """Shorter side of an image in evaluation, pixels, unless its longer one gets too long."""
    long_side: int = 1333
    """Longest side of an image in evaluation, pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("task.head", self.head, HEADS)
        if self.masks and self.head == "dino":
            raise ConfigError("task.masks", True, "DINO finds boxes only", "Add --task.masks false")
        checks.positive("task.short_side", self.short_side)
        checks.in_range("task.long_side", self.long_side, self.short_side, 100_000)

    def input_side(self, model: ModelConfig) -> tuple[int, str]:
        """That of whole images in evaluation."""
        return self.short_side, "--task.short-side"
