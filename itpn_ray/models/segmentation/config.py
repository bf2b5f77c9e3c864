"""What a segmenter is made of; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from itpn_ray.checks import positive
from itpn_ray.errors import ConfigError
from itpn_ray.models.config import DenseConfig, DenseHeadConfig
from itpn_ray.models.detection.dino.config import DeformableConfig

PIXELWISE = ("upernet", "mlp")
"""Heads that give each pixel a class by itself."""


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(DenseHeadConfig):
    """A dense trunk with UPerNet's head or a light one, and an auxiliary head to learn by."""

    kind: str = field(default="segmenter", init=False)
    head: str = "upernet"
    """One of `PIXELWISE`."""
    width: int = 0
    """Channels of the head; 0: those of the joined map of stride 16 (768 for B, as the authors)."""
    aux_width: int = 256
    """Channels of the auxiliary head."""
    dropout: float = 0.1
    """Share of the channels that is dropped before the class logits in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head not in PIXELWISE:
            raise ConfigError("head", self.head, "no such head", 'Use "upernet" or "mlp"')
        if self.width < 0 or self.aux_width < 1:
            name = "width" if self.width < 0 else "aux_width"
            raise ConfigError(name, getattr(self, name), "must be positive", "Use 1 or more")
        if not 0 <= self.dropout < 1:
            raise ConfigError("dropout", self.dropout, "is no share", "Use 0 to 0.9")

    @property
    def dense(self) -> DenseConfig:
        """See `segmentation_maps`."""
        return segmentation_maps(self)


@dataclass(frozen=True, kw_only=True)
class MaskDinoConfig(DeformableConfig):
    """MaskDINO for semantic segmentation (Li et al., "Mask DINO", CVPR 2023).

    The defaults are those of its authors' configuration for ADE20K: queries and anchors that are
    learned, not chosen, and copies that are noisy but never to be rejected.
    """

    kind: str = field(default="mask_dino", init=False)
    levels: int = 3
    """Maps that the encoder sees: strides 8, 16 and 32."""
    decoder_layers: int = 9
    """Layers of the decoder; each is supervised, and so is what it begins with."""
    queries: int = 100
    """Masks that can be found in one image."""
    label_noise: float = 0.4
    """Twice the fraction of noisy copies that are given a random class."""
    box_noise: float = 0.4
    """Largest shift of a noisy box's sides, in halves of its width or height."""
    points: int = 12_544
    """Points of an image that a mask is judged at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("points", self.points)
        if self.levels != 3:
            raise ConfigError("levels", self.levels, "no such number of maps", "Use 3")

    @property
    def dense(self) -> DenseConfig:
        """See `segmentation_maps`."""
        return segmentation_maps(self)


@dataclass(frozen=True, kw_only=True)
class EomtConfig(DenseHeadConfig):
    """Queries that pass through a few blocks together with the tokens of stride 16.

    In the manner of EoMT (Kerssies et al., "Your ViT is secretly an image segmentation model", CVPR
    2025), whose blocks are the last ones of the trunk.
    """

    kind: str = field(default="eomt", init=False)
    width: int = 256
    """Channels of the head."""
    attention_heads: int = 8
    """Heads of each of its attentions."""
    blocks: int = 3
    """Blocks that queries and tokens pass through; each is supervised, and so is what they begin
    with."""
    queries: int = 100
    """Masks that can be found in one image."""
    points: int = 12_544
    """Points of an image that a mask is judged at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "attention_heads", "blocks", "queries", "points"):
            positive(name, getattr(self, name))
        if self.width % self.attention_heads:
            hint = f"Use a multiple of {self.attention_heads}"
            raise ConfigError("width", self.width, "cannot be shared by the heads", hint)

    @property
    def dense(self) -> DenseConfig:
        """See `segmentation_maps`."""
        return segmentation_maps(self)


def segmentation_maps(config: DenseHeadConfig) -> DenseConfig:
    """Four maps, each with the trunk's own behind it; stride 32 by max pooling (authors')."""
    return DenseConfig(
        trunk=config.trunk, pyramid=config.pyramid, levels=4, pool="max", join_trunk=True
    )


HEADS: dict[str, type[DenseHeadConfig]] = {
    **dict.fromkeys(PIXELWISE, SegmenterConfig),
    "mask_dino": MaskDinoConfig,
    "eomt": EomtConfig,
}
"""Name of a head -> its settings."""
