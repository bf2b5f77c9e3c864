"""Settings of pre-training on pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.metrics import NEIGHBOURS, PRETRAINING, Metric
from itpn_ray.tasks.config import ModelConfig, TaskConfig
from itpn_ray.tasks.pretraining_checks import refuse_fine_tuning


@dataclass(frozen=True, kw_only=True)
class PixelPretraining(TaskConfig):
    """Masked image modelling on pixels with masked feature modelling (paper, 3.3, eq. 4).

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: ClassVar[str] = "pixel_pretraining"
    implementation: ClassVar[str] = "itpn_ray.tasks.pixel_pretraining.task:PixelPretrainingTask"
    title: ClassVar[str] = "Pre-training"
    kinds: ClassVar[tuple[str, ...]] = ("autoencoder",)
    metrics: ClassVar[tuple[Metric, ...]] = (*NEIGHBOURS, *PRETRAINING)

    mask_ratio: float = 0.75
    """Share of the 16 x 16 patches that are hidden (paper, 5.1)."""
    feature_weight: float = 0.3
    """λ, the weight of the feature loss beside the pixel loss (paper, eq. 4); 0 leaves it out."""
    teacher_momentum: float = 0.996
    """Momentum of the moving-average teacher that gives the feature targets (paper, 3.4), warmed up
    over a run's first steps; with 1 it stays as it was."""
    pyramid_width: int = 256
    """Channels of the feature pyramid."""
    decoder_width: int = 512
    """Channels of the pixel decoder."""
    decoder_depth: int = 8
    """Blocks of the pixel decoder."""

    def __post_init__(self) -> None:
        checks.in_range("task.mask_ratio", self.mask_ratio, 0.0, 1.0, open_high=True)
        checks.not_negative("task.feature_weight", self.feature_weight)
        checks.in_range("task.teacher_momentum", self.teacher_momentum, 0.0, 1.0)
        for name in ("pyramid_width", "decoder_width", "decoder_depth"):
            checks.positive(f"task.{name}", getattr(self, name))

    @property
    def average(self) -> tuple[str, float]:
        """The teacher of the feature loss, where λ > 0."""
        if self.feature_weight == 0:
            return "", 0.0
        return "teacher of the feature loss", self.teacher_momentum

    def check_model(self, model: ModelConfig) -> None:
        """Refuse a frozen trunk, token migration and windows.

        Raises:
            ConfigError: the network has one of them.
        """
        refuse_fine_tuning(model)
