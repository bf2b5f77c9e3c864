"""Which reader a source wants: by ``--format``, or by a look at what lies there."""

from __future__ import annotations

from collections.abc import Callable
from posixpath import splitext

from pyarrow.fs import FileSystem, FileType

from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.sources.base import SPLIT_NAMES, Source
from itpn_ray.data.sources.coco import CocoSource
from itpn_ray.data.sources.csv_list import CsvList
from itpn_ray.data.sources.folders import FolderSource
from itpn_ray.data.sources.imagenet_tars import TRAIN, ImageNetTars
from itpn_ray.data.sources.metadata import MetadataSource
from itpn_ray.data.sources.metadata_labels import MetadataLabels
from itpn_ray.data.sources.near import annotated_folders
from itpn_ray.data.sources.parquet import ParquetSource
from itpn_ray.data.sources.recognise import annotated_format
from itpn_ray.data.sources.voc_folder import LabelmeSource, VocSource
from itpn_ray.data.sources.walk import Entry, children
from itpn_ray.data.sources.webdataset import WebDataset
from itpn_ray.data.sources.yolo import YoloSource
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.storage import filesystem, join

SOURCES: dict[str, Callable[[PrepareConfig], Source]] = {
    "folders": lambda c: FolderSource(c.source, c.unlabelled, c.classes, c.labels),
    "imagenet-tars": lambda c: ImageNetTars(c.source, c.classes, c.labels),
    "webdataset": lambda c: WebDataset(c.source, c.unlabelled, c.classes),
    "parquet": lambda c: ParquetSource(c.source, c.unlabelled, c.classes),
    "csv": lambda c: CsvList(c.source, c.unlabelled, c.classes),
    "coco": lambda c: CocoSource(c.source),
    "objects365": lambda c: CocoSource(c.source),
    "yolo": lambda c: YoloSource(c.source, c.classes),
    "voc": lambda c: VocSource(c.source, c.classes),
    "labelme": lambda c: LabelmeSource(c.source, c.classes),
    "metadata": lambda c: MetadataSource(c.source, c.classes),
    "metadata-labels": lambda c: MetadataLabels(c.source, c.classes),
}


def open_source(config: PrepareConfig) -> tuple[str, Source]:
    """The format and the reader of ``config.source``.

    Raises:
        DataError: nothing is there.
        ConfigError: the format does not take a field that was given.
    """
    name = config.format
    if name == "auto":
        name = detect(config.source, unlabelled=config.unlabelled)
    for field, takers in _TAKERS.items():
        if getattr(config, field) and name not in takers:
            raise ConfigError(
                f"prepare.{field}",
                getattr(config, field),
                f"is not used with the format {name}",
                "Leave it out",
            )
    return name, SOURCES[name](config)


# Where shards lie in published data sets: data/, train/, default/train/.
_SHARD_FOLDERS = (*SPLIT_NAMES, "data", "default")

_TAKERS = {
    "unlabelled": ("folders", "webdataset", "parquet", "csv"),
    "classes": (
        *("folders", "imagenet-tars", "webdataset", "parquet", "csv"),
        *("yolo", "voc", "labelme", "metadata", "metadata-labels"),
    ),
    "labels": ("folders", "imagenet-tars"),
}


def detect(uri: str, *, unlabelled: bool = False) -> str:
    """The format of a source, by the files that lie in it.

    Args:
        uri: the source.
        unlabelled: folders mean nothing, so that none can be taken for a class by mistake.

    Raises:
        DataError: nothing is there, or annotations that cannot be read.
    """
    fs, root = filesystem(uri)
    suffix = splitext(root)[1].lower()
    if suffix in (".csv", ".parquet") and fs.get_file_info(root).type == FileType.File:
        return suffix[1:]
    found = children(fs, root)
    if not found:
        raise DataError("prepare.source", uri, "is empty", "Give a folder with images")
    names = {entry.name for entry in found}
    if TRAIN in names:
        return "imagenet-tars"
    annotated = annotated_format(fs, root)
    if annotated is not None:
        return annotated
    names = _shard_names(fs, root, depth=2)
    for name, ending in (("webdataset", ".tar"), ("parquet", ".parquet")):
        if any(inner.endswith(ending) for inner in names):
            return name
    if not unlabelled:
        _check_for_annotations(fs, root, found, uri)
    return "folders"


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
        names.add(entry.name)
        if entry.is_folder and entry.name in _SHARD_FOLDERS and depth:
            names |= _shard_names(fs, entry.path, depth - 1)
    return names
