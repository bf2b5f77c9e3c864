"""What a network is made of, as plain data: no torch here, so that configurations stay light.

One table holds every published size. A frozen config describes each kind of network completely: the
module built from it has exactly these parameters, and a weight file carries it as JSON.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from itpn_ray import checks
from itpn_ray.errors import ConfigError
from itpn_ray.models.acceleration.config import Acceleration

PATCH = 16  # pixels a side of the patch that one token of the last stage stands for
STRIDES = (4, 8, 16)  # pixels between neighbouring tokens of stages 1, 2 and 3
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1]: what all networks are trained with."""
# The authors test images from this size on uncropped.
_WHOLE_FROM = 384  # pixels

FAST_ITPN = "fast_itpn"
ITPN = "itpn"


def crop_fraction(image_size: int) -> float:
    """The usual side of an evaluation's crop over the shorter side of the resized image.

    0.875 (224 of 256 pixels) below 384 pixels and 1 from there on, as the authors evaluate.
    """
    return 0.875 if image_size < _WHOLE_FROM else 1.0


def check_image_size(size: int) -> None:
    """Raise ConfigError unless `size` pixels are a whole number of patches."""
    if size < PATCH or size % PATCH:
        near = max(PATCH, round(size / PATCH) * PATCH)
        raise ConfigError(
            "image_size",
            size,
            f"an image is cut into {PATCH}x{PATCH} patches",
            f"Use a multiple of {PATCH}, such as {near}",
        )


def check_share(name: str, value: float) -> None:
    """Raise ConfigError unless `value` lies in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ConfigError(name, value, "it is a fraction", "Use a number from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """A trunk: three stages of widths d/4, d/2 and d at strides 4, 8, 16 (paper 3.4)."""

    family: str
    """Which network: "fast_itpn" or "itpn"."""
    width: int
    """d, the width of stage 3."""
    heads: int
    """Attention heads of stage 3."""
    depths: tuple[int, int, int]
    """Blocks of each stage."""
    image_size: int = 224
    """Side in pixels of the images that the position table is made for; others resize it."""
    early_mlp_ratio: float = 3.0
    """Hidden width over width in the MLPs of stages 1 and 2."""
    mlp_ratio: float = 3.0
    """Hidden width over width in the MLPs of stage 3."""
    layer_scale: float | None = 0.1
    """First value of the learned scale on each residual branch; None: no such scale."""
    patch_norm: bool = False
    """Whether a layer norm follows the patch embedding."""
    convolution: bool = False
    """Whether stages 1 and 2, and the pyramid over them, have 3x3 convolutions in the place of
    channel MLPs (Table 9, C-MLP crossed out)."""
    relative_position: bool = False
    """Whether each attention of stage 3 learns a bias for every offset between two tokens."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; the blocks before it rise evenly from 0."""
    acceleration: Acceleration = field(default_factory=Acceleration)
    """Token migration and token gathering in stage 3; nothing by default."""

    def __post_init__(self) -> None:
        # JSON, from which weight files are read, gives a list.
        object.__setattr__(self, "depths", tuple(self.depths))
        if self.family not in (FAST_ITPN, ITPN):
            raise ConfigError(
                "family", self.family, "unknown family", f"Use {FAST_ITPN!r} or {ITPN!r}"
            )
        if self.width < 16 or self.width % 16:
            raise ConfigError(
                "width",
                self.width,
                "the stages have widths d/4, d/2 and d, and position codes need multiples of 16",
                "Use a multiple of 16",
            )
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(
                "heads",
                self.heads,
                f"a width of {self.width} cannot be split into so many equal heads",
                "Use a divisor of the width",
            )
        if len(self.depths) != 3 or min(self.depths) < 0 or self.depths[2] < 1:
            raise ConfigError(
                "depths",
                self.depths,
                "a trunk has three stages and the last has blocks",
                "Give three counts, such as (3, 3, 24)",
            )
        check_image_size(self.image_size)
        check_share("drop_path", self.drop_path)

    @property
    def grid(self) -> int:
        """Patches along one side of an image of `image_size`."""
        return self.image_size // PATCH

    @property
    def num_drops(self) -> int:
        """Residual branches that stochastic depth may drop: one an early block, two a late one."""
        return self.depths[0] + self.depths[1] + 2 * self.depths[2]


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """The feature pyramid of eq. 3, made of channel MLPs so that no patch sees another (3.4)."""

    width: int = 256
    """Channels of every pyramid map."""
    depth: int = 1
    """MLP blocks after each of the two upsamplings."""
    mlp_ratio: float = 4.0
    """Hidden width over width in the pyramid's MLPs."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 0:
            raise ConfigError(
                "pyramid",
                (self.width, self.depth),
                "width and depth of the pyramid must be positive",
                "The authors use width 256 and depth 1 (detection, CLIP) or 2 (pixels)",
            )


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A trunk, mean pooling and a linear head."""

    kind: str = field(default="classifier", init=False)
    trunk: TrunkConfig
    num_classes: int = 1000
    """Outputs of the head; 0: no head, the pooled features come out."""
    norm_before_pool: bool = False
    """Whether the layer norm sees every token before the mean instead of the mean after it."""

    def __post_init__(self) -> None:
        if self.num_classes < 0:
            raise ConfigError(
                "num_classes", self.num_classes, "cannot be negative", "Use 0 for features only"
            )


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """A trunk and its pyramid: maps for detection and segmentation."""

    kind: str = field(default="dense", init=False)
    trunk: TrunkConfig
    pyramid: PyramidConfig
    levels: int = 5
    """Maps that come out: 3 for strides 4 to 16, 4 and 5 add 32 and 64 by pooling stride 16."""
    finest: int = 4
    """Stride of the first map; with 8 there is no map of stride 4, nor what only it needs."""
    pool: str = "avg"
    """How strides 32 and 64 are pooled: "avg" (detection) or "max" (segmentation)."""
    join_trunk: bool = False
    """Whether each pyramid map has the trunk's own map of its stride behind it (segmentation)."""

    def __post_init__(self) -> None:
        if self.levels not in (3, 4, 5):
            raise ConfigError("levels", self.levels, "no such number of maps", "Use 3, 4 or 5")
        if self.finest not in (4, 8):
            raise ConfigError("finest", self.finest, "no first map of that stride", "Use 4 or 8")
        if self.pool not in ("avg", "max"):
            raise ConfigError("pool", self.pool, "no such pooling", 'Use "avg" or "max"')


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The pixel masked autoencoder: trunk and pyramid on the visible patches, then a decoder."""

    kind: str = field(default="autoencoder", init=False)
    trunk: TrunkConfig
    pyramid: PyramidConfig
    decoder_width: int = 512
    """Width of the decoder's blocks."""
    decoder_depth: int = 8
    """Attention blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    decoder_mlp_ratio: float = 4.0
    """Hidden width over width in the decoder's MLPs."""
    integral: bool = True
    """Whether the pyramid is pre-trained too; without, the decoder sees the trunk's last stage
    alone, as MAE's does (Table 8, iPT crossed out)."""

    def __post_init__(self) -> None:
        if self.decoder_width % 16 or self.decoder_width % self.decoder_heads:
            raise ConfigError(
                "decoder_width",
                self.decoder_width,
                "three pyramid maps are folded into it (1, 1/4 and 1/16 of it a token), and its "
                f"{self.decoder_heads} heads share it equally",
                "Use a multiple of 16 and of the heads",
            )


@dataclass(frozen=True, kw_only=True)
class DistillerConfig:
    """The network that learns a CLIP teacher's features from a masked image."""

    kind: str = field(default="distiller", init=False)
    trunk: TrunkConfig
    pyramid: PyramidConfig
    teacher_dim: int = 768
    """Width of the teacher's tokens."""
    aux_depth: int = 2
    """Blocks of the auxiliary branch that leaves the trunk at three quarters of its depth."""


@dataclass(frozen=True, kw_only=True)
class DenseHeadConfig(ABC):
    """A dense trunk with a head behind it."""

    kind: str = field(default="", init=False)
    trunk: TrunkConfig
    pyramid: PyramidConfig
    num_classes: int
    """Classes of objects or pixels; nothing is none of them."""

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ConfigError(
                "num_classes", self.num_classes, "there is nothing to find", "Use 1 or more"
            )

    @property
    @abstractmethod
    def dense(self) -> DenseConfig:
        """The dense trunk."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(DenseHeadConfig):
    """A dense trunk with a head that finds objects; `detection/` has a config for each head."""

    @property
    def dense(self) -> DenseConfig:
        """The dense trunk: five maps, strides 32 and 64 by average pooling (the authors' neck)."""
        return DenseConfig(trunk=self.trunk, pyramid=self.pyramid)


NetworkConfig = (
    ClassifierConfig | DenseConfig | AutoencoderConfig | DistillerConfig | DenseHeadConfig
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """One line of the size table: a trunk, and the necks and decoders that go with it."""

    trunk: TrunkConfig
    pyramid_width: int = 256
    decoder: tuple[int, int] = (512, 8)
    """Width and depth of the pixel decoder."""
    source: str
    """Where the paper says so."""


def _fast(width: int, heads: int, depths: tuple[int, int, int]) -> TrunkConfig:
    return TrunkConfig(family=FAST_ITPN, width=width, heads=heads, depths=depths)


def _itpn(width: int, heads: int, depths: tuple[int, int, int]) -> TrunkConfig:
    return TrunkConfig(
        family=ITPN,
        width=width,
        heads=heads,
        depths=depths,
        mlp_ratio=4.0,
        layer_scale=None,
        patch_norm=True,
    )


SIZES: dict[str, Size] = {
    # Heads of 32 channels, half of the paper's: it is to be small, not good.
    "fast_itpn_nano": Size(
        trunk=_fast(128, 4, (1, 1, 4)),
        pyramid_width=64,
        decoder=(128, 2),
        source="not in the paper: for laptops and tests",
    ),
    "fast_itpn_tiny": Size(trunk=_fast(384, 6, (1, 1, 12)), source="Table 4, Fast-iTPN-T"),
    "fast_itpn_small": Size(trunk=_fast(384, 6, (2, 2, 20)), source="Table 4, Fast-iTPN-S"),
    "fast_itpn_base": Size(trunk=_fast(512, 8, (3, 3, 24)), source="Table 4, Fast-iTPN-B"),
    "fast_itpn_large": Size(trunk=_fast(768, 12, (2, 2, 40)), source="Table 4, Fast-iTPN-L"),
    # A plain trunk for comparisons: all blocks in stage 3, as many as ViT has.
    "plain_nano": Size(
        trunk=_itpn(128, 4, (0, 0, 5)),
        pyramid_width=64,
        decoder=(128, 2),
        source="not in the paper: a plain trunk beside fast_itpn_nano",
    ),
    "plain_small": Size(trunk=_itpn(384, 6, (0, 0, 12)), source="ViT-S (merged patches)"),
    "plain_base": Size(trunk=_itpn(768, 12, (0, 0, 12)), source="Table 1, ViT-B (merged patches)"),
    # Their depths are those of HiViT-T and HiViT-S, which the paper counts 19 M and 38 M of too.
    "itpn_tiny": Size(trunk=_itpn(384, 6, (1, 1, 10)), source="Table 4, iTPN-T"),
    "itpn_small": Size(trunk=_itpn(384, 6, (2, 2, 20)), source="Table 4, iTPN-S"),
    "itpn_base": Size(trunk=_itpn(512, 8, (3, 3, 24)), source="Table 1, iTPN-B"),
    "itpn_large": Size(trunk=_itpn(768, 12, (2, 2, 40)), source="Table 1, iTPN-L"),
}
ALIASES = {
    "nano": "fast_itpn_nano",
    "tiny": "fast_itpn_tiny",
    "small": "fast_itpn_small",
    "base": "fast_itpn_base",
    "large": "fast_itpn_large",
}


def decoder_heads(width: int) -> int:
    """Heads of a pixel decoder: 16, the authors' number, but at least 16 channels each."""
    # The nano's decoder is 128 wide: 16 heads would leave 8 channels each.
    return max(1, min(16, width // 16))


def find_size(name: str) -> Size:
    """The size called `name`, by its full name or, for Fast-iTPN, by its last word alone.

    Raises:
        ConfigError: no such size.
    """
    full = ALIASES.get(name, name)
    checks.one_of("model", full, [*SIZES, *ALIASES])
    return SIZES[full]
