"""What a DINO detector is made of, as plain data: no torch here.

The defaults are those of the DINO paper (Zhang et al., "DINO: DETR with Improved DeNoising Anchor
Boxes for End-to-End Object Detection", ICLR 2023, appendix D.4) and of its authors' code; the
Fast-iTPN paper (5.3) names the detector and its 12 epochs, and no setting of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from itpn_ray.checks import in_range, positive
from itpn_ray.errors import ConfigError
from itpn_ray.models.config import DenseConfig, DenseHeadConfig, DetectorConfig

NORM_GROUPS = 32  # groups of the normalisation behind each level's projection

_COUNTS = (
    "channels",
    "attention_heads",
    "mlp_width",
    "encoder_layers",
    "decoder_layers",
    "queries",
    "denoising",
)


@dataclass(frozen=True, kw_only=True)
class DeformableConfig(DenseHeadConfig):
    """Encoder and decoder of deformable attention, with denoising: DINO's, and MaskDINO's."""

    levels: int
    """Maps that the encoder sees."""
    channels: int = 256
    """Width of encoder and decoder."""
    attention_heads: int = 8
    """Heads of each of their attentions."""
    mlp_width: int = 2048
    """Hidden width of their MLPs."""
    encoder_layers: int = 6
    """Layers of the encoder."""
    decoder_layers: int = 6
    """Layers of the decoder; each is supervised."""
    queries: int = 900
    """Objects that can be found in one image."""
    denoising: int = 100
    """Noisy copies of an image's objects to be repaired in training, in as many whole groups as
    fit, one at least."""
    label_noise: float = 0.5
    """Twice the fraction of noisy copies that are given a random class."""
    box_noise: float = 1.0
    """Largest shift of a noisy box's sides, in halves of its width or height."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _COUNTS:
            positive(name, getattr(self, name))
        in_range("label_noise", self.label_noise, 0.0, 2.0)
        in_range("box_noise", self.box_noise, 0.0, 1.0)
        # At least two channels a group: the coarsest map may have one token.
        if self.channels % (2 * NORM_GROUPS) or self.channels % self.attention_heads:
            raise ConfigError(
                "channels",
                self.channels,
                f"maps are normalised in {NORM_GROUPS} groups of several channels, and "
                f"{self.attention_heads} heads share the channels",
                f"Use a multiple of {2 * NORM_GROUPS} and of the heads, such as 256",
            )


@dataclass(frozen=True, kw_only=True)
class DinoConfig(DeformableConfig, DetectorConfig):
    """A dense trunk, a deformable encoder, and a decoder of queries with denoising.

    Each noisy copy to be repaired comes with a worse copy to be rejected.
    """

    kind: str = field(default="dino", init=False)
    levels: int = 5
    """Maps that the encoder sees: 5 for strides 4 to 64, 4 for strides 8 to 64 (a fifth of the
    tokens; DINO's authors call them 5scale and 4scale)."""
    masks: bool = False
    """Whether each query has a mask too, see `itpn_ray.models.detection.dino.masks`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels not in (4, 5):
            raise ConfigError("levels", self.levels, "no such number of maps", "Use 4 or 5")
        if self.masks and self.levels == 5:
            raise ConfigError("levels", 5, "leaves no map of stride 4 for the masks", "Use 4")

    @property
    def dense(self) -> DenseConfig:
        """The dense trunk: maps of strides 4 or 8 to 64, 32 and 64 by average pooling."""
        # The coarsest stride is 64 in either case.
        # Masks are made of stride 4, which an encoder of four levels does not see.
        finest = 4 if self.levels == 5 or self.masks else 8
        return DenseConfig(trunk=self.trunk, pyramid=self.pyramid, finest=finest)
