"""Which reader a source wants: by ``--format``, or by a look at what lies there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from posixpath import splitext

from pyarrow.fs import FileSystem, FileType

from itpn_ray.data.prepare.config import MASK_FORMATS, PrepareConfig
from itpn_ray.data.sources.annotated.coco import CocoSource
from itpn_ray.data.sources.annotated.dota import DotaSource
from itpn_ray.data.sources.annotated.metadata import MetadataSource
from itpn_ray.data.sources.annotated.near import annotated_folders
from itpn_ray.data.sources.annotated.recognise import annotated_format
from itpn_ray.data.sources.annotated.turned_xml import TurnedXmlSource
from itpn_ray.data.sources.annotated.voc_folder import LabelmeSource, VocSource
from itpn_ray.data.sources.annotated.yolo import YoloSource
from itpn_ray.data.sources.base import Say, Source, silent
from itpn_ray.data.sources.csv_list import CsvList
from itpn_ray.data.sources.folder_layout import count_images
from itpn_ray.data.sources.folders import FolderSource
from itpn_ray.data.sources.imagenet_tars import TRAIN, TRAIN_22K, ImageNetTars
from itpn_ray.data.sources.masks.panoptic import PanopticSource
from itpn_ray.data.sources.masks.source import MaskSource, mask_format
from itpn_ray.data.sources.metadata_labels import MetadataLabels
from itpn_ray.data.sources.outside import outside_source
from itpn_ray.data.sources.parquet.source import ParquetSource
from itpn_ray.data.sources.several_labels.csv_list import CsvLabelLists
from itpn_ray.data.sources.splits import SplitNames, split_of_name
from itpn_ray.data.sources.walk import Entry, children
from itpn_ray.data.sources.webdataset import WebDataset
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.formatting import show_names
from itpn_ray.storage import filesystem, join


def open_masks(form: str, config: PrepareConfig) -> MaskSource:
    """The reader of a format of images with masks."""
    source = PanopticSource if form == "coco-panoptic" else MaskSource
    return source(config.source, form, config.classes, config.palette, _splits(config))


def open_list(config: PrepareConfig) -> Source:
    """The reader of a list of images, with a label each or several."""
    splits = _splits(config)
    if config.label_separator or config.label_columns:
        labels = config.label_separator, config.label_columns
        return CsvLabelLists(config.source, *labels, config.classes, splits)
    return CsvList(config.source, config.unlabelled, config.classes, splits)


def open_parquet(config: PrepareConfig) -> ParquetSource:
    """The reader of Parquet files."""
    return ParquetSource(
        config.source,
        config.unlabelled,
        config.classes,
        _splits(config),
        config.label_separator,
        config.label_columns,
    )


SOURCES: dict[str, Callable[[PrepareConfig], Source]] = {
    "folders": lambda c: FolderSource(c.source, c.unlabelled, c.classes, c.labels, _splits(c)),
    "imagenet-tars": lambda c: ImageNetTars(c.source, c.classes, c.labels),
    "webdataset": lambda c: WebDataset(c.source, c.unlabelled, c.classes, _splits(c)),
    "parquet": open_parquet,
    "csv": open_list,
    "coco": lambda c: CocoSource(c.source, _splits(c)),
    "objects365": lambda c: CocoSource(c.source, _splits(c)),
    "yolo": lambda c: YoloSource(c.source, c.classes, _splits(c)),
    "voc": lambda c: VocSource(c.source, c.classes, _splits(c)),
    "labelme": lambda c: LabelmeSource(c.source, c.classes, _splits(c)),
    "dota": lambda c: DotaSource(c.source, c.classes, _splits(c)),
    "turned-xml": lambda c: TurnedXmlSource(c.source, c.classes, _splits(c)),
    "metadata": lambda c: MetadataSource(c.source, c.classes, _splits(c)),
    "metadata-labels": lambda c: MetadataLabels(c.source, c.classes, _splits(c)),
    **{form: partial(open_masks, form) for form in MASK_FORMATS},
}


def _splits(config: PrepareConfig) -> SplitNames:
    return SplitNames.parse(config.splits)


def open_source(config: PrepareConfig, say: Say = silent) -> tuple[str, Source]:
    """The format and the reader of ``config.source``.

    Args:
        config: the settings.
        say: takes what was guessed, in a sentence.

    Raises:
        DataError: nothing is there.
        ConfigError: the format does not take a field that was given.
    """
    name = config.format
    if name == "auto":
        name = detect(config.source, say, unlabelled=config.unlabelled)
    for field, takers in _TAKERS.items():
        # Readers of other packages judge the settings themselves.
        if getattr(config, field) and name in SOURCES and name not in takers:
            raise ConfigError(
                f"prepare.{field}",
                getattr(config, field),
                f"is not used with the format {name}",
                "Leave it out",
            )
    return name, (SOURCES.get(name) or outside_source(name))(config)


# Where shards lie in published data sets, beside folders of the splits: data/, default/train/.
_SHARD_FOLDERS = ("data", "default")
_LISTS = (".csv", ".tsv", ".txt")
# Images for each shard from which on a folder is one of images with a stray archive in it.
_MANY = 3

_TAKERS = {
    "unlabelled": ("folders", "webdataset", "parquet", "csv"),
    "classes": (
        *("folders", "imagenet-tars", "webdataset", "parquet", "csv"),
        *("yolo", "voc", "labelme", "dota", "turned-xml"),
        *("metadata", "metadata-labels", *MASK_FORMATS[:4]),
    ),
    "label_separator": ("csv", "parquet"),
    "label_columns": ("csv", "parquet"),
    "palette": ("masks",),
    "labels": ("folders", "imagenet-tars"),
    # The official tars have fixed names: there is nothing to say.
    "splits": tuple(name for name in SOURCES if name != "imagenet-tars"),
}


def detect(uri: str, say: Say = silent, *, unlabelled: bool = False) -> str:
    """The format of a source, by the files that lie in it.

    Args:
        uri: the source.
        say: takes what was guessed, in a sentence, where something speaks against it.
        unlabelled: folders mean nothing, so that none can be taken for a class by mistake.

    Raises:
        DataError: nothing is there, or annotations that cannot be read.
    """
    fs, root = filesystem(uri)
    suffix = splitext(root)[1].lower()
    if suffix in (*_LISTS, ".parquet") and fs.get_file_info(root).type == FileType.File:
        return "parquet" if suffix == ".parquet" else "csv"
    found = [entry for entry in children(fs, root) if not entry.problem]
    if not found:
        raise DataError("prepare.source", uri, "is empty", "Give a folder with images")
    names = {entry.name for entry in found}
    if names & {TRAIN, *TRAIN_22K}:
        return "imagenet-tars"
    # Masks first: a folder that has objects too is none of theirs, see `mask_format`.
    if form := mask_format(fs, root):
        return form
    annotated = annotated_format(fs, root)
    if annotated is not None:
        return annotated
    form = _shards_or_folders(fs, root, say)
    if form == "folders" and not unlabelled:
        _check_for_annotations(fs, root, found, uri)
    return form


def _shards_or_folders(fs: FileSystem, root: str, say: Say) -> str:
    """Tars or Parquet files where these are what the source consists of, or else folders."""
    names = _shard_names(fs, root, depth=2)
    for form, ending in (("webdataset", ".tar"), ("parquet", ".parquet")):
        shards = [name for name in names if name.lower().endswith(ending)]
        if not shards:
            continue
        # One more than decides: counting goes no further.
        images = count_images(fs, root, _MANY * len(shards) + 1)
        if not images:
            return form
        taken = "folders" if images > _MANY * len(shards) else form
        what = show_names(sorted(shards), 3)
        say(
            f"there are {what} and images beside: taken for {_IN_WORDS[taken]}; "
            f"--format {form if taken == 'folders' else 'folders'} reads it the other way"
        )
        return taken
    return "folders"


_IN_WORDS = {
    "folders": "a folder of images with a stray archive (--format folders)",
    "webdataset": "tars with stray images (--format webdataset)",
    "parquet": "Parquet files with stray images (--format parquet)",
}


def _check_for_annotations(fs: FileSystem, root: str, found: list[Entry], uri: str) -> None:
    """Refuse to take for classes what are images beside annotations, or a folder around them.

    Raises:
        DataError: as said.
    """
    for images, beside in annotated_folders(fs, root):
        raise DataError(
            "prepare.source",
            uri,
            f"has {images}/ with {beside} beside it, but no annotations of a known layout",
            "Give a list as --source, export boxes as COCO or YOLO, or pass --format folders if "
            "these are classes",
        )
    folders = [entry for entry in found if entry.is_folder]
    if len(folders) == 1 and annotated_format(fs, folders[0].path) is not None:
        inner = join(uri, folders[0].name)
        raise DataError("prepare.source", uri, "holds one folder", f"Give --source {inner}")


def _shard_names(fs: FileSystem, folder: str, depth: int) -> set[str]:
    """Names of what lies in a folder and in those of its folders that may hold shards."""
    names = set()
    for entry in children(fs, folder):
        if entry.problem:
            continue
        names.add(entry.name)
        may_hold = entry.name in _SHARD_FOLDERS or split_of_name(entry.name)
        if entry.is_folder and may_hold and depth:
            names |= _shard_names(fs, entry.path, depth - 1)
    return names
