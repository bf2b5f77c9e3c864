"""Settings of the network and of the fine-tuning tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from itpn_ray import checks
from itpn_ray.data.config import crop_fraction
from itpn_ray.errors import ConfigError
from itpn_ray.models.acceleration.config import Acceleration

HEADS = ("mask_rcnn", "cascade_mask_rcnn", "dino")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: str = "fast_itpn_base"
    """Name in the table of sizes, e.g. fast_itpn_nano, fast_itpn_base, itpn_large."""
    image_size: int = 224
    """Side of the square input, pixels; a multiple of 16. Detection, whose images have any
    size, has learned positions for an image of this side, and resizes them."""
    crop_fraction: float | None = None
    """Side of the central crop that is evaluated over the shorter side of the resized image;
    None: 0.875 below 384 px and 1 from there (the authors'). Detection sees whole images."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; grows linearly from 0 at the first."""
    migration: float = 0.0
    """r, the share of stage-3 tokens that has migrated by the last block (paper, 4.1)."""
    window: int = 0
    """Largest side of an attention window in stage 3, tokens; 0: the whole map (paper, 4.2)."""
    gathering: bool = False
    """Give each window a gathering token, through which windows see each other (paper, 4.2)."""
    layer_scale: float | None = None
    """First value of the learned scale on each residual branch; None: the size's own (0.1 for
    Fast-iTPN, no scale for iTPN)."""
    relative_position: bool = False
    """Learn a bias for every offset between two tokens of stage 3 (iTPN with CLIP)."""
    init: str = ""
    """Weights to start from: a weight file of ours or of the authors, or a run's folder. Empty:
    random."""
    init_key: str | None = None
    """Which network of an initial file that holds several, such as model_ema; None: as the
    run says when it starts."""
    partial_init: bool = False
    """Accept an initial file that fills less than 95 % of the trunk."""
    compile: bool = False
    """Compile the network with torch.compile."""
    checkpoint_activations: bool = False
    """Trade compute for memory: recompute activations in the backward pass."""

    def __post_init__(self) -> None:
        checks.positive("model.image_size", self.image_size)
        if self.image_size % 16:
            lower = max(16, self.image_size // 16 * 16)
            raise ConfigError(
                "model.image_size",
                self.image_size,
                "is not a multiple of 16, the largest stride of the trunk",
                f"Use {lower} or {lower + 16}",
            )
        if self.crop_fraction is not None:
            checks.in_range("model.crop_fraction", self.crop_fraction, 0.1, 1.0)
        checks.in_range("model.drop_path", self.drop_path, 0.0, 1.0, open_high=True)
        checks.in_range("model.migration", self.migration, 0.0, 0.9)
        checks.not_negative("model.window", self.window)
        if self.gathering and not self.window:
            raise ConfigError(
                "model.gathering",
                True,
                "gathering tokens belong to windows",
                "Add --model.window 16",
            )
        if self.layer_scale is not None:
            checks.positive("model.layer_scale", self.layer_scale)

    @property
    def evaluation_crop(self) -> float:
        """`crop_fraction`, or what is usual for the size."""
        return self.crop_fraction or crop_fraction(self.image_size)

    @property
    def acceleration(self) -> Acceleration:
        """Migration, windows and gathering of the trunk."""
        return Acceleration(
            reduction="migration" if self.migration else "none",
            ratio=self.migration,
            window=self.window,
            gathering=self.gathering,
        )

    def trunk_changes(self) -> dict[str, Any]:
        """What the trunk has other than the named size, without acceleration."""
        changes = {"drop_path": self.drop_path, "relative_position": self.relative_position}
        scale = {} if self.layer_scale is None else {"layer_scale": self.layer_scale}
        return changes | scale


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Fine-tuning for classification (paper, 5.2).

    Raises:
        ConfigError: a value lies outside its range.
    """

    mixup: float = 0.8
    """α of the Beta distribution of mixup; 0 turns it off."""
    cutmix: float = 1.0
    """α of the Beta distribution of cutmix; 0 turns it off."""
    label_smoothing: float = 0.1
    """Probability mass spread evenly over all classes."""
    random_erasing: float = 0.25
    """Probability that a rectangle of an image is replaced by noise."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights that are evaluated and exported; 0 turns them off."""

    def __post_init__(self) -> None:
        checks.not_negative("task.mixup", self.mixup)
        checks.not_negative("task.cutmix", self.cutmix)
        for field in ("label_smoothing", "random_erasing", "ema_decay"):
            checks.in_range(f"task.{field}", getattr(self, field), 0.0, 1.0, open_high=True)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Object detection and instance segmentation (paper, 5.3).

    Raises:
        ConfigError: a value lies outside its range, or DINO is asked for masks.
    """

    head: str = "mask_rcnn"
    """What finds the objects: ``mask_rcnn``, ``cascade_mask_rcnn`` or ``dino``."""
    masks: bool = True
    """Find masks besides boxes; DINO has none."""
    small_head: bool = False
    """A head of few and narrow layers that looks at fewer boxes, for laptops and tests."""
    init_pyramid: bool = True
    """Take the pyramid of the initial weights too; false: draw it anew (paper, Table 8)."""
    short_side: int = 800
    """Shorter side of an image in evaluation, pixels, unless its longer one gets too long."""
    long_side: int = 1333
    """Longest side of an image in evaluation, pixels."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are evaluated and exported; 0 turns them off."""

    def __post_init__(self) -> None:
        checks.one_of("task.head", self.head, HEADS)
        if self.masks and self.head == "dino":
            raise ConfigError("task.masks", True, "DINO finds boxes only", "Add --task.masks false")
        checks.positive("task.short_side", self.short_side)
        checks.in_range("task.long_side", self.long_side, self.short_side, 100_000)
        checks.in_range("task.ema_decay", self.ema_decay, 0.0, 1.0, open_high=True)
