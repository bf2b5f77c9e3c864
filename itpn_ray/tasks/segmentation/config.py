"""Settings of semantic segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.data.config import Augmentation, SegmentationAugmentConfig
from itpn_ray.errors import ConfigError
from itpn_ray.metrics import SEGMENTATION, Metric
from itpn_ray.models.segmentation.config import HEADS
from itpn_ray.tasks.config import ModelConfig, TaskConfig


@dataclass(frozen=True, kw_only=True)
class Segmentation(TaskConfig):
    """Semantic segmentation (paper, 5.3).

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: ClassVar[str] = "segmentation"
    implementation: ClassVar[str] = "itpn_ray.tasks.segmentation.task:SegmentationTask"
    title: ClassVar[str] = "Segmentation"
    kinds: ClassVar[tuple[str, ...]] = ("segmenter",)
    metrics: ClassVar[tuple[Metric, ...]] = SEGMENTATION
    augmentation: ClassVar[type[Augmentation]] = SegmentationAugmentConfig

    head: str = "upernet"
    """What finds the classes: ``upernet``, or ``mlp``, a light one to measure it by."""
    width: int = 0
    """Channels of the head; 0: those of trunk and pyramid together at stride 16 (the authors')."""
    init_pyramid: bool = True
    """Take the pyramid of the initial weights too; false: draw it anew (paper, Table 8)."""
    short_side: int = 512
    """Shorter side of an image in evaluation, pixels, unless its longer one gets too long."""
    long_side: int = 2048
    """Longest side of an image in evaluation, pixels."""
    window: int = 512
    """Side of the windows that an image is evaluated in, pixels; 0: whole images."""
    stride: int = 341
    """Pixels from window to window."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are evaluated and exported, warmed up over a run's first
    steps; 0 turns them off."""

    def __post_init__(self) -> None:
        checks.one_of("task.head", self.head, HEADS)
        checks.not_negative("task.width", self.width)
        checks.positive("task.short_side", self.short_side)
        checks.in_range("task.long_side", self.long_side, self.short_side, 100_000)
        checks.not_negative("task.window", self.window)
        if self.window:
            checks.in_range("task.stride", self.stride, 1, self.window)
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
                "would compile anew for each size of an evaluated image",
                "Leave it out for segmentation",
            )

    def input_side(self, model: ModelConfig) -> tuple[int, str]:
        """That of whole images in evaluation."""
        return self.short_side, "--task.short-side"

    @property
    def average(self) -> tuple[str, float]:
        """The weights that are evaluated and exported."""
        return ("evaluated and exported weights", self.ema_decay) if self.ema_decay else ("", 0.0)
