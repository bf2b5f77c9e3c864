"""Settings of pre-training on pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.errors import ConfigError
from itpn_ray.metrics import NEIGHBOURS, PRETRAINING, Metric
from itpn_ray.models.config import PATCH
from itpn_ray.tasks.config import MOST_COMPILED, ModelConfig, TaskConfig
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
    integral: bool = True
    """Pre-train the pyramid with the trunk (paper, 3.2); false: the decoder sees the trunk's last
    stage alone, as in the paper's comparison (Table 8). It has no feature loss."""
    pyramid_width: int = 256
    """Channels of the feature pyramid."""
    decoder_width: int = 512
    """Channels of the pixel decoder."""
    decoder_depth: int = 8
    """Blocks of the pixel decoder."""
    start_size: int = 0
    """Side of the first epoch's images, pixels, a multiple of 16; they grow by 16 at a time to
    ``model.image_size``. 0: they have that from the start."""
    growth_epochs: float = 0.0
    """Epochs after which images have their full size, where they start smaller."""

    def __post_init__(self) -> None:
        checks.in_range("task.mask_ratio", self.mask_ratio, 0.0, 1.0, open_high=True)
        checks.not_negative("task.feature_weight", self.feature_weight)
        checks.in_range("task.teacher_momentum", self.teacher_momentum, 0.0, 1.0)
        for name in ("pyramid_width", "decoder_width", "decoder_depth"):
            checks.positive(f"task.{name}", getattr(self, name))
        if not self.integral and self.feature_weight:
            raise ConfigError(
                "task.feature_weight",
                self.feature_weight,
                "weighs the feature loss of a pyramid, which task.integral false leaves out",
                "Add --task.feature-weight 0",
            )
        checks.not_negative("task.growth_epochs", self.growth_epochs)
        if self.start_size % PATCH or self.start_size < 0:
            raise ConfigError(
                "task.start_size",
                self.start_size,
                f"is no multiple of {PATCH}, the side of a patch",
                f"Use {max(PATCH, self.start_size // PATCH * PATCH)}",
            )
        if bool(self.start_size) != bool(self.growth_epochs):
            raise ConfigError(
                "task.growth_epochs",
                self.growth_epochs,
                "says how long images grow, and task.start_size from which side",
                "Give both, or neither",
            )

    def side(self, epoch: int, image_size: int) -> int:
        """Side of an epoch's training images, pixels: a function of the epoch, so that it resumes.

        Args:
            epoch: 0 at the first.
            image_size: full side.
        """
        if not self.start_size or epoch >= self.growth_epochs:
            return image_size
        grown = (image_size - self.start_size) * epoch / self.growth_epochs
        # Cut to whole patches, so the side grows in steps.
        return self.start_size + int(grown // PATCH) * PATCH

    @property
    def average(self) -> tuple[str, float]:
        """The teacher of the feature loss, where λ > 0."""
        if self.feature_weight == 0:
            return "", 0.0
        return "teacher of the feature loss", self.teacher_momentum

    def check_model(self, model: ModelConfig) -> None:
        """Refuse a frozen trunk, token migration, windows, and images that would shrink.

        Raises:
            ConfigError: the network has one of them, or images start larger than they are to be.
        """
        refuse_fine_tuning(model)
        if self.start_size >= model.image_size:
            raise ConfigError(
                "task.start_size",
                self.start_size,
                f"is not smaller than model.image_size, {model.image_size}",
                "Leave it out, or start smaller",
            )
        # A graph for each multiple of a patch's side, both ends included.
        sizes = (model.image_size - self.start_size) // PATCH + 1
        if model.compile and self.start_size and sizes > MOST_COMPILED:
            raise ConfigError(
                "task.start_size",
                self.start_size,
                f"makes {sizes} sizes, each a graph of its own to compile; {MOST_COMPILED} are "
                "the most",
                "Start larger, or leave out --model.compile",
            )
