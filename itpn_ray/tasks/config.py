"""Settings of the network and of the fine-tuning tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from itpn_ray import checks
from itpn_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: str = "fast_itpn_base"
    """Name in the table of sizes, e.g. fast_itpn_nano, fast_itpn_base, itpn_large."""
    image_size: int = 224
    """Side of the square input, pixels; a multiple of 16."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; grows linearly from 0 at the first."""
    migration: float = 0.0
    """r, the share of stage-3 tokens that has migrated by the last block (paper, 4.1)."""
    layer_scale: float | None = None
    """First value of the learned scale on each residual branch; None: the size's own (0.1 for
    Fast-iTPN, no scale for iTPN)."""
    relative_position: bool = False
    """Learn a bias for every offset between two tokens of stage 3 (iTPN with CLIP)."""
    init: str = ""
    """Weights to start from: a file of ours or of the authors. Empty: random."""
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
        checks.in_range("model.drop_path", self.drop_path, 0.0, 1.0, open_high=True)
        checks.in_range("model.migration", self.migration, 0.0, 0.9)
        if self.layer_scale is not None:
            checks.positive("model.layer_scale", self.layer_scale)

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
    """Probability that a rectangle of a picture is replaced by noise."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights that are evaluated and exported; 0 turns them off."""

    def __post_init__(self) -> None:
        checks.not_negative("task.mixup", self.mixup)
        checks.not_negative("task.cutmix", self.cutmix)
        for field in ("label_smoothing", "random_erasing", "ema_decay"):
            checks.in_range(f"task.{field}", getattr(self, field), 0.0, 1.0, open_high=True)
