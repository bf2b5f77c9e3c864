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
from itertools import product
from posixpath import basename, relpath, splitext
from typing import Any

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
from itpn_ray.data.sources.objects import CocoObjects, read_arrays
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
            ids, names, table = _read(fs, root, name, uri)
            if class_ids and (ids, names) != (class_ids, classes):
                raise DataError(uri, None, "lists other categories than train", "Make them equal")
            class_ids, classes = ids, names
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


def _read(
    fs: FileSystem, root: str, name: str, uri: str
) -> tuple[tuple[int, ...], tuple[str, ...], pa.Table]:
    """Category numbers, ascending, their names without stray blanks, and the listing of a split."""
    categories: list[tuple[int, str]] = []
    rows = Rows(_SCHEMA)
    waiting: list[dict[str, Any]] = []
    place: tuple[str, int] | None = None
    try:
        for key, item in read_arrays(uri, ("categories", "images")):
            if key == "categories":
                categories.append((item["id"], item["name"].strip()))
                continue
            waiting.append(item)
            if place is not None or len(waiting) == _TRIES:
                place = place or _place(fs, root, name, waiting)
                _list(rows, root, place, waiting)
        if waiting:
            _list(rows, root, place or _place(fs, root, name, waiting), waiting)
    except (KeyError, AttributeError) as error:
        raise DataError(uri, None, f"an entry has no {error}", "Check the file") from error
    if not categories or not len(rows):
        cause = "lists no pictures" if categories else "lists no categories"
        raise DataError(uri, None, cause, "Check the file")
    categories.sort()
    return tuple(n for n, _ in categories), tuple(text for _, text in categories), rows.table()


def _list(rows: Rows, root: str, place: tuple[str, int], waiting: list[dict[str, Any]]) -> None:
    """Move pictures from ``waiting`` to the listing."""
    for item in waiting:
        path = _path(place[0], item["file_name"], place[1])
        rows.add(
            path,
            f"{root}/{path}",
            image_id=item["id"],
            frame_width=item.get("width"),
            frame_height=item.get("height"),
        )
    waiting.clear()


def _place(fs: FileSystem, root: str, name: str, pictures: list[dict[str, Any]]) -> tuple[str, int]:
    """The folder of the pictures, and how many last parts of their names count (0: all).

    Raises:
        DataError: none of the pictures is in any of the usual folders.
    """
    files = [item["file_name"] for item in pictures]
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
