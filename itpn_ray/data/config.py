"""Settings of the input path. Imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from itpn_ray import checks
from itpn_ray.errors import ConfigError

TRANSPORTS = ("ray", "threads")
POLICIES = ("none", "rand_augment", "three_augment", "color_jitter")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How a worker turns shards into host batches.

    Raises:
        ConfigError: a value lies outside its range.
    """

    transport: str = "ray"
    """What carries the read instructions: ``ray`` (Ray Data) or ``threads`` (this process)."""
    threads: int = 4
    """Decoding threads of each worker."""
    prefetch: int = 512
    """Images decoded ahead of the training step; at least one whole batch."""
    window: int = 0
    """Shards shuffled together; 0: all. For remote data larger than the cache, e.g. 16."""
    cache_gb: float = 20.0
    """Most disk space for shards fetched from remote storage, GB per machine."""
    cache_dir: str = ""
    """Folder of fetched shards; empty: itpn_ray_cache_USER in the system's folder for scratch
    files."""

    def __post_init__(self) -> None:
        checks.one_of("loader.transport", self.transport, TRANSPORTS)
        checks.not_negative("loader.window", self.window)
        for name in ("threads", "prefetch", "cache_gb"):
            checks.positive(f"loader.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The base of the settings of augmentation; each kind of loader has its own."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Augmentation):
    """What happens to a training image before it becomes a tensor of the batch.

    Raises:
        ConfigError: a value lies outside its range.
    """

    min_scale: float = 0.08
    """Smallest area of the random crop, fraction of the image (paper: 0.2 for pixel targets)."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    policy: str = "none"
    """Colour and geometry after the crop: ``none``, ``rand_augment``, ``three_augment`` or
    ``color_jitter``."""
    magnitude: float = 9.0
    """Strength of rand_augment, 0 to 10."""
    num_ops: int = 2
    """Operations that rand_augment applies to an image."""
    jitter: float = 0.3
    """Fraction by which brightness, contrast and saturation vary: three_augment, color_jitter."""
    repeats: int = 1
    """Times an image appears in one global batch, each differently augmented."""

    def __post_init__(self) -> None:
        checks.in_range("augment.min_scale", self.min_scale, 0.001, 1.0)
        checks.in_range("augment.flip", self.flip, 0.0, 1.0)
        checks.one_of("augment.policy", self.policy, POLICIES)
        checks.in_range("augment.magnitude", self.magnitude, 0.0, 10.0)
        checks.positive("augment.num_ops", self.num_ops)
        checks.in_range("augment.jitter", self.jitter, 0.0, 1.0)
        checks.positive("augment.repeats", self.repeats)


@dataclass(frozen=True, kw_only=True)
class DetectionAugmentConfig(Augmentation):
    """Sizes, crops and flips of detection (the usual augmentation of DETR and its successors).

    Raises:
        ConfigError: a value lies outside its range.
    """

    short_sides: tuple[int, ...] = tuple(range(480, 801, 32))
    """Shorter sides that a training image is resized to, pixels, one drawn at random."""
    long_side: int = 1333
    """Longest side of a resized image, pixels."""
    crop: float = 0.5
    """Probability of a crop before the resize."""
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    """Shorter sides at which the crop is measured, pixels."""
    crop_size: tuple[int, int] = (384, 600)
    """Smallest and largest side of the crop, pixels."""
    flip: float = 0.5
    """Probability of a horizontal flip."""

    def __post_init__(self) -> None:
        for name in ("short_sides", "crop_short_sides"):
            sides = getattr(self, name)
            if not sides or min(sides) < 1:
                raise ConfigError(
                    f"augment.{name}", sides, "is not a list of sides", "Give pixels, e.g. 480 512"
                )
        # The largest short side must fit under the cap, or
        # the cap would shrink every image drawn with it.
        checks.in_range("augment.long_side", self.long_side, max(self.short_sides), 100_000)
        low, high = self.crop_size
        if not 0 < low <= high:
            raise ConfigError(
                "augment.crop_size", self.crop_size, "is not a range", "Give the smaller side first"
            )
        for name in ("crop", "flip"):
            checks.in_range(f"augment.{name}", getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class RotatedAugmentConfig(Augmentation):
    """Size, flips and turns of rotated detection (mmrotate's for DOTA).

    Raises:
        ConfigError: a value lies outside its range.
    """

    side: int = 1024
    """Longer side of a view, pixels."""
    flip: float = 0.75
    """Probability of a flip: left to right, upside down or both, each as likely."""
    quarter_turn: float = 0.0
    """Probability of a turn by 90, 180 or 270 degrees, each as likely."""
    rotation: float = 0.0
    """Probability of a rotation by any angle about the centre; what leaves the view is lost."""

    def __post_init__(self) -> None:
        checks.positive("augment.side", self.side)
        for name in ("flip", "quarter_turn", "rotation"):
            checks.in_range(f"augment.{name}", getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class SegmentationAugmentConfig(Augmentation):
    """Sizes, crops, flips and colours of segmentation (the usual ones of ADE20K since PSPNet).

    Raises:
        ConfigError: a value lies outside its range.
    """

    short_side: int = 512
    """Shorter side of an image at ratio 1, pixels, unless its longer one gets too long."""
    long_side: int = 2048
    """Longest side of an image at ratio 1, pixels."""
    ratio: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest factor on both, one drawn for each image."""
    crop_size: int = 512
    """Side of the square crop, pixels; smaller images are padded."""
    largest_class: float = 0.75
    """Largest share of a crop's labelled pixels that one class may have; the first of ten crops
    drawn that keeps to it is taken, or else the last. 1: no such rule."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    distortion: float = 0.5
    """Probability of each change of brightness, contrast, saturation and hue; 0: none."""

    def __post_init__(self) -> None:
        for name in ("short_side", "crop_size"):
            checks.positive(f"augment.{name}", getattr(self, name))
        checks.in_range("augment.long_side", self.long_side, self.short_side, 100_000)
        low, high = self.ratio
        if not 0 < low <= high:
            raise ConfigError(
                "augment.ratio", self.ratio, "is not a range", "Give the smaller factor first"
            )
        if self.crop_size % 32:
            raise ConfigError(
                "augment.crop_size",
                self.crop_size,
                "is not a multiple of 32, the largest stride of the maps",
                f"Use {max(32, self.crop_size // 32 * 32)}",
            )
        for name in ("largest_class", "flip", "distortion"):
            checks.in_range(f"augment.{name}", getattr(self, name), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """What a contact sheet of prepared data shows.

    Raises:
        ConfigError: a value lies outside its range.
    """

    split: str = "train"
    """Split whose images are shown."""
    images: int = 24
    """Images shown: the first ones of the epoch's order."""
    image_size: int = 224
    """Side of the network's input, pixels."""
    seed: int = 0
    """Seed of the order and of every draw."""
    epoch: int = 0
    """Epoch of the order and of every draw."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    detection: DetectionAugmentConfig = field(default_factory=DetectionAugmentConfig)
    rotated: RotatedAugmentConfig = field(default_factory=RotatedAugmentConfig)
    segmentation: SegmentationAugmentConfig = field(default_factory=SegmentationAugmentConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        checks.positive("images", self.images)
        checks.positive("image_size", self.image_size)
