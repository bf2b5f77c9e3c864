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
from itpn_ray.data.sources.parquet import ParquetSource
from itpn_ray.data.sources.walk import children, files_below
from itpn_ray.data.sources.webdataset import WebDataset
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.storage import filesystem

SOURCES: dict[str, Callable[[PrepareConfig], Source]] = {
    "folders": lambda c: FolderSource(c.source, c.unlabelled, c.classes, c.labels),
    "imagenet-tars": lambda c: ImageNetTars(c.source, c.classes, c.labels),
    "webdataset": lambda c: WebDataset(c.source, c.unlabelled, c.classes),
    "parquet": lambda c: ParquetSource(c.source, c.unlabelled, c.classes),
    "csv": lambda c: CsvList(c.source, c.unlabelled, c.classes),
    "coco": lambda c: CocoSource(c.source),
    "objects365": lambda c: CocoSource(c.source),
}


def open_source(config: PrepareConfig) -> tuple[str, Source]:
    """The format and the reader of ``config.source``.

    Raises:
        DataError: nothing is there.
        ConfigError: the format does not take a field that was given.
    """
    name = detect(config.source) if config.format == "auto" else config.format
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
    "classes": ("folders", "imagenet-tars", "webdataset", "parquet", "csv"),
    "labels": ("folders", "imagenet-tars"),
}


def detect(uri: str) -> str:
    """The format of a source, by the names of the files that lie in it.

    Raises:
        DataError: nothing is there.
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
    if "annotations" in names:
        listed = [entry.name for entry in files_below(fs, f"{root}/annotations")]
        if any(name.startswith("zhiyuan_objv2_") for name in listed):
            return "objects365"
        if any(name.endswith(".json") for name in listed):
            return "coco"
        if "images" in names:
            raise DataError(
                "prepare.source",
                uri,
                "has images/ and annotations/, but no COCO JSON in the latter",
                "Name the format: --format coco, or folders if these are two classes",
            )
    names = _shard_names(fs, root, depth=2)
    for name, ending in (("webdataset", ".tar"), ("parquet", ".parquet")):
        if any(inner.endswith(ending) for inner in names):
            return name
    return "folders"


def _shard_names(fs: FileSystem, folder: str, depth: int) -> set[str]:
    """Names of what lies in a folder and in those of its folders that may hold shards."""
    names = set()
    for entry in children(fs, folder):
        names.add(entry.name)
        if entry.is_folder and entry.name in _SHARD_FOLDERS and depth:
            names |= _shard_names(fs, entry.path, depth - 1)
    return names
