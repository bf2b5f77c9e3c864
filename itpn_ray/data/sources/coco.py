"""COCO and Objects365: pictures in folders, objects in one JSON file a split.

- COCO: ``annotations/instances_train2017.json``, pictures in ``train2017/``.
- Objects365 v2: ``annotations/zhiyuan_objv2_train.json`` names
  ``images/v1/patch8/objects365_v1_00420917.jpg``, the picture is
  ``train/patch8/objects365_v1_00420917.jpg``.

Any COCO-like set is understood whose annotation files lie in ``annotations/``, begin with
``instances_`` or ``zhiyuan_objv2_`` (or are the only ones) and name their split.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice, product
from posixpath import basename, relpath, splitext

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileSystem, FileType

from itpn_ray.data.sources.base import (
    LISTING_SCHEMA,
    Annotations,
    Listing,
    Rows,
    Source,
    split_of,
)
from itpn_ray.data.sources.objects import CocoObjects, read_array
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem, join

_PREFIXES = ("instances_", "zhiyuan_objv2_")
_SCHEMA = pa.schema(
    [
        *LISTING_SCHEMA,
        ("image_id", pa.int64()),
        ("frame_width", pa.int32()),  # as annotated; null where the file does not say
        ("frame_height", pa.int32()),
    ]
)
# Pictures looked for when guessing where they lie; some may be missing.
_TRIES = 20


@dataclass(frozen=True)
class CocoSource(Source):
    """A data set with COCO annotations.

    Attributes:
        uri: the folder with ``annotations/``.
    """

    uri: str

    def listing(self) -> Listing:
        """See `Source.listing`; pictures in the order of the annotation file."""
        fs, root = filesystem(self.uri)
        splits: dict[str, pa.Table] = {}
        annotations: dict[str, Annotations] = {}
        origins: dict[str, str] = {}
        classes: tuple[str, ...] = ()
        class_ids: tuple[int, ...] = ()
        for split, name in self._annotation_files(fs, root).items():
            uri = join(self.uri, name)
            ids, names = _categories(uri)
            if class_ids and (ids, names) != (class_ids, classes):
                raise DataError(uri, None, "lists other categories than train", "Make them equal")
            class_ids, classes = ids, names
            table = _pictures(fs, root, name, uri)
            image_ids = np.sort(table.column("image_id").to_numpy())
            twice = image_ids[:-1][image_ids[1:] == image_ids[:-1]]
            if len(twice):
                raise DataError(uri, int(twice[0]), "is the id of two pictures", "Make ids unique")
            splits[split], origins[split] = table, name
            annotations[split] = CocoObjects(uri, class_ids, image_ids)
        return Listing(
            kind="detection",
            classes=classes,
            class_ids=class_ids,
            splits=splits,
            origins=origins,
            annotations=annotations,
        )

    def _annotation_files(self, fs: FileSystem, root: str) -> dict[str, str]:
        """Split -> annotation file, relative to the root; train first."""
        below = files_below(fs, f"{root}/annotations")
        files = [entry for entry in below if entry.name.endswith(".json")]
        files = [entry for entry in files if entry.name.startswith(_PREFIXES)] or files
        found: dict[str, str] = {}
        for entry in files:
            name = relpath(entry.path, root)
            split = split_of(entry.name)
            if split in found:
                raise DataError(
                    "prepare.source",
                    self.uri,
                    f"{found[split]} and {name} are both {split}",
                    "Leave one of them in annotations/",
                )
            if split is not None:
                found[split] = name
        if not found:
            raise DataError(
                "prepare.source",
                self.uri,
                "has no annotations/*.json that names its split (instances_train2017.json)",
                "Check the folder",
            )
        return {split: found[split] for split in ("train", "val", "test") if split in found}


def _categories(uri: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Category numbers in ascending order, and their names without stray blanks."""
    found = sorted((item["id"], item["name"].strip()) for item in read_array(uri, "categories"))
    if not found:
        raise DataError(uri, None, "lists no categories", "Check the file")
    return tuple(number for number, _ in found), tuple(name for _, name in found)


def _pictures(fs: FileSystem, root: str, name: str, uri: str) -> pa.Table:
    """The listing of one split."""
    items = read_array(uri, "images")
    first = list(islice(items, _TRIES))
    if not first:
        raise DataError(uri, None, "lists no pictures", "Check the file")
    folder, tail = _place(fs, root, name, [item["file_name"] for item in first])
    rows = Rows(_SCHEMA)
    for item in chain(first, items):
        path = _path(folder, item["file_name"], tail)
        rows.add(
            path,
            f"{root}/{path}",
            image_id=item["id"],
            frame_width=item.get("width"),
            frame_height=item.get("height"),
        )
    return rows.table()


def _place(fs: FileSystem, root: str, name: str, files: list[str]) -> tuple[str, int]:
    """The folder of the pictures, and how many last parts of their names count (0: all).

    Raises:
        DataError: none of the pictures is in any of the usual folders.
    """
    stem = splitext(basename(name))[0].rpartition("_")[2]  # train2017, train
    folders = ["", stem, f"images/{stem}", split_of(stem) or stem, "images", f"{stem}/images"]
    for file, folder, tail in product(files, dict.fromkeys(folders), (0, 2, 1)):
        path = _path(folder, file, tail)
        if fs.get_file_info(f"{root}/{path}").type == FileType.File:
            return folder, tail
    raise DataError(
        join(root, name),
        files[0],
        f"is in none of the usual folders ({stem}/, images/{stem}/, {stem}/patch0/, ...)",
        "Put the pictures beside annotations/",
    )


def _path(folder: str, file_name: str, tail: int) -> str:
    parts = [part for part in file_name.split("/") if part not in ("", ".", "..")]
    return "/".join([*filter(None, [folder]), *parts[-tail:]])
