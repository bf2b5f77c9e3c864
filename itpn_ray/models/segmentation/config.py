"""What a segmenter is made of; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from itpn_ray.errors import ConfigError
from itpn_ray.models.config import DenseConfig, DenseHeadConfig

HEADS = ("upernet", "mlp")


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(DenseHeadConfig):
    """A dense trunk with UPerNet's head or a light one, and an auxiliary head to learn by."""

    kind: str = field(default="segmenter", init=False)
    head: str = "upernet"
    """"upernet" or "mlp"."""
    width: int = 0
    """Channels of the head; 0: those of the joined map of stride 16 (768 for B, as the authors)."""
    aux_width: int = 256
    """Channels of the auxiliary head."""
    dropout: float = 0.1
    """Share of the channels that is dropped before the class logits in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head not in HEADS:
            raise ConfigError("head", self.head, "no such head", 'use "upernet" or "mlp"')
        if self.width < 0 or self.aux_width < 1:
            name = "width" if self.width < 0 else "aux_width"
            raise ConfigError(name, getattr(self, name), "must be positive", "use 1 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError("dropout", self.dropout, "is no share", "use 0 to 0.9")

    @property
    def dense(self) -> DenseConfig:
        """Four maps, each with the trunk's own behind it; stride 32 by max pooling (authors')."""
        return DenseConfig(
            trunk=self.trunk, pyramid=self.pyramid, levels=4, pool="max", join_trunk=True
        )
