"""Settings of image generation and preparation. Imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass

from itpn_ray import checks
from itpn_ray.data.sources.outside import check_format
from itpn_ray.errors import ConfigError

LAYOUTS = ("imagenet", "coco", "ade", "dota")
MASK_FORMATS = (
    "ade20k",
    "masks",
    "voc-masks",
    "ade20k-full",
    "cityscapes",
    "coco-panoptic",
)
FORMATS = (
    "auto",
    "folders",
    "imagenet-tars",
    "webdataset",
    "parquet",
    "csv",
    "coco",
    "objects365",
    "yolo",
    "voc",
    "labelme",
    "metadata",
    "metadata-labels",
    "dota",
    "turned-xml",
    *MASK_FORMATS,
)
# Above this Pillow itself refuses an image (twice its MAX_IMAGE_PIXELS).
MOST_PIXELS = 178_956_970


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """The embedded images: what to draw and where.

    Raises:
        ConfigError: a value lies outside its range.
    """

    out: str
    """Folder to write; must be new or hold the same images already."""
    layout: str = "imagenet"
    """``imagenet``: train/ and val/ with a folder a class; ``coco``: images and COCO JSON;
    ``ade``: images and masks as ADE20K has them; ``dota``: images with turned boxes, as DOTA."""
    train: int = 4000
    """Images for training."""
    val: int = 1000
    """Images for validation."""
    side: int = 128
    """Mean of width and height in pixels; each image varies by a quarter."""
    seed: int = 0
    """The same seed gives the same bytes."""
    num_workers: int | None = None
    """Drawing processes; all cores if not given, 0 draws in this process."""

    def __post_init__(self) -> None:
        checks.one_of("images.layout", self.layout, LAYOUTS)
        for name in ("train", "val"):
            checks.positive(f"images.{name}", getattr(self, name))
        checks.in_range("images.side", self.side, 32, 4096)
        checks.not_negative("images.seed", self.seed)
        if self.num_workers is not None:
            checks.not_negative("images.num_workers", self.num_workers)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Raw images in, shards and a manifest out.

    Raises:
        ConfigError: a value lies outside its range.
    """

    source: str
    """Folder or file with the raw images: a local path or ``s3://bucket/prefix``."""
    out: str
    """Folder for the shards: a local path or ``s3://bucket/prefix``."""
    format: str = "auto"
    """How the source is laid out; ``auto`` looks and says what it found. Formats of other packages
    are named."""
    unlabelled: bool = False
    """Ignore folder names and labels: images without labels, to pre-train on."""
    classes: str = ""
    """File with the class names in the order of the labels, one a line; empty: sorted names."""
    label_separator: str = ""
    """What separates the labels of an image in a table, such as "|": images then have several."""
    label_columns: tuple[str, ...] = ()
    """Columns of a table that are classes, 0 or 1 in each: images then have several labels. One
    column alone is that of the labels which ``label_separator`` separates."""
    palette: str = ""
    """File with the colours of masks and their classes, one a line: ``R G B NAME``. Pixels of a
    colour named ``ignore`` count as no class."""
    labels: str = ""
    """File with the labels of ImageNet's validation images, where no folders give them."""
    splits: tuple[str, ...] = ()
    """What each split is called in the source, where its names are not the usual ones:
    ``train=Training val=Testing``. What is not named is left out."""
    holdout: float = 0.1
    """Fraction of each class set aside as ``val`` where the source has no validation images; copies
    of a file stay on one side."""
    seed: int = 0
    """Decides the held-out images and the order of the rows."""
    max_side: int | None = None
    """Shrink images whose longer side exceeds this, in pixels; 512 suits training at 224."""
    quality: int = 90
    """JPEG quality of images that are shrunk. Others keep their bytes, or are written anew with
    quality 95 and full colour where they were no plain upright JPEG."""
    max_pixels: int = 2**26
    """Images with more pixels than this go to quarantine undecoded."""
    shard_rows: int = 1024
    """Most images in a shard."""
    shard_mb: int = 128
    """Most megabytes of source files in a shard."""
    tile: int = 1024
    """Side of the tiles that images with turned boxes are cut into, pixels; 0: whole images."""
    tile_gap: int = 200
    """Pixels that neighbouring tiles share."""
    strict: bool = False
    """Stop at the first image or object that cannot be used."""
    max_broken: float = 0.1
    """Stop when more than this fraction of the images, or of their objects, cannot be used."""
    num_workers: int | None = None
    """Shards in work at once; all CPUs of the cluster if not given, 0 works in this process."""

    def __post_init__(self) -> None:
        check_format(self.format, FORMATS)
        for name in ("splits", "label_columns"):
            object.__setattr__(
                self, name, tuple(getattr(self, name))
            )  # lists, where read from JSON
        self._check_labels()
        if not 0 < self.holdout < 1:
            raise ConfigError(
                "prepare.holdout", self.holdout, "must lie between 0 and 1", "Try 0.1"
            )
        for name in ("shard_rows", "shard_mb"):
            checks.positive(f"prepare.{name}", getattr(self, name))
        if self.tile:
            checks.in_range("prepare.tile", self.tile, 64, 8192)
            checks.in_range("prepare.tile_gap", self.tile_gap, 0, self.tile - 1)
        checks.not_negative("prepare.seed", self.seed)
        checks.in_range("prepare.quality", self.quality, 1, 100)
        checks.in_range("prepare.max_broken", self.max_broken, 0, 1)
        checks.in_range("prepare.max_pixels", self.max_pixels, 1, MOST_PIXELS)
        if self.max_side is not None:
            checks.in_range("prepare.max_side", self.max_side, 16, 65_500)
        if self.num_workers is not None:
            checks.not_negative("prepare.num_workers", self.num_workers)

    def _check_labels(self) -> None:
        """Refuse settings of several labels that contradict each other."""
        columns = self.label_columns
        if self.unlabelled and (columns or self.label_separator):
            raise ConfigError(
                "prepare.unlabelled",
                True,
                "leaves no labels, and others say how they are written",
                "Leave out --unlabelled, or --label-separator and --label-columns",
            )
        if len(columns) == 1 and not self.label_separator:
            raise ConfigError(
                "prepare.label_columns",
                columns,
                "is one class alone",
                "Name all columns of classes, or give --label-separator for one with lists",
            )
        if len(columns) > 1 and self.label_separator:
            raise ConfigError(
                "prepare.label_separator",
                self.label_separator,
                "separates labels in one column, and several columns are named",
                "Leave it out, or name one column",
            )
        if len(columns) > 1 and self.classes:
            raise ConfigError(
                "prepare.classes",
                self.classes,
                "the columns of labels are the classes",
                "Leave it out; the order of --label-columns is that of the classes",
            )
        if len(set(columns)) < len(columns):
            raise ConfigError(
                "prepare.label_columns", columns, "names a column twice", "Leave one of them out"
            )
