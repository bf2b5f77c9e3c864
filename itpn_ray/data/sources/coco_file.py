"""Reads what a COCO annotation file lists beside its objects: categories and images."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from posixpath import basename, splitext
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileSystem, FileType

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import Fault
from itpn_ray.data.sources.base import LISTING_SCHEMA, Rows
from itpn_ray.data.sources.coco_entries import has_mask, parse_category, parse_image, whole
from itpn_ray.data.sources.objects import CocoObjects, read_arrays
from itpn_ray.data.sources.splits import split_of_file
from itpn_ray.errors import DataError
from itpn_ray.storage import join

_SCHEMA = pa.schema(
    [
        *LISTING_SCHEMA,
        ("image_id", pa.int64()),
        ("frame_width", pa.int32()),  # as annotated; null where the file does not say
        ("frame_height", pa.int32()),
    ]
)
# Images looked for when guessing where they lie; some may be missing.
_TRIES = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoFile:
    """One annotation file.

    Attributes:
        name: relative to the source.
        categories: names by number, ascending, without stray blanks.
        rows: the listing of its images, in its order.
        objects: its objects.
        faults: images that are left out, and categories that contradict each other.
    """

    name: str
    categories: dict[int, str]
    rows: pa.Table
    objects: CocoObjects
    faults: tuple[Fault, ...]


def read_coco_file(fs: FileSystem, root: str, name: str, uri: str) -> CocoFile:
    """Read an annotation file but for its objects.

    Args:
        fs: where it lies.
        root: the source in it.
        name: the file, relative to the source.
        uri: the file.

    Raises:
        DataError: it cannot be read, lists nothing, or its images are not found.
    """
    return _Reading(fs, root, name, uri).read()


class _Reading:
    """An annotation file that is being read."""

    def __init__(self, fs: FileSystem, root: str, name: str, uri: str) -> None:
        self._fs = fs
        self._root = root
        self._name = name
        self._uri = uri
        self._categories: dict[int, str] = {}
        self._images = Rows(_SCHEMA)
        self._waiting: list[dict[str, Any]] = []
        self._place: tuple[str, int] | None = None
        self._lost: list[int] = []  # numbers of images whose entries cannot be used
        self._masked = False
        self._faults: list[Fault] = []

    def read(self) -> CocoFile:
        """Read it to its end."""
        for key, item in read_arrays(self._uri, ("categories", "images", "annotations")):
            if key == "annotations":
                self._masked = self._masked or has_mask(item)
            elif key == "categories":
                self._add_category(item)
            else:
                self._add_image(item)
        self._list()
        rows = self._once(self._images.table()) if len(self._images) else None
        if not self._categories or not rows:
            cause = "lists no images" if self._categories else "lists no categories"
            if self._faults:
                cause += f" that can be used; {self._faults[0].place} {self._faults[0].reason}"
            raise DataError(self._uri, None, cause, "Check the file")
        categories = dict(sorted(self._categories.items()))
        return CocoFile(
            name=self._name,
            categories=categories,
            rows=rows,
            objects=self._objects(tuple(categories), rows),
            faults=tuple(self._faults),
        )

    def _add_category(self, item: dict[str, Any]) -> None:
        try:
            number, name = parse_category(item)
        except FaultError as fault:
            place = f"{self._uri}#category {item.get('id')}"
            raise DataError(place, None, fault.reason, "Check the file") from fault
        if number in self._categories:
            first = self._categories[number]
            self._tell(f"category {number}", kinds.CATEGORY_TWICE, f"is {name} and {first}")
        self._categories.setdefault(number, name)

    def _add_image(self, item: dict[str, Any]) -> None:
        try:
            self._waiting.append(parse_image(item))
        except FaultError as fault:
            self._tell(f"image {item.get('id')}", fault.kind, fault.reason)
            with suppress(FaultError):
                self._lost.append(whole(item, "id"))
        if self._place is not None or len(self._waiting) == _TRIES:
            self._list()

    def _list(self) -> None:
        """Move the images that wait for the place of their files to the listing."""
        if not self._waiting:
            return
        if self._place is None:
            self._place = _place(self._fs, self._root, self._name, self._waiting)
        for image in self._waiting:
            path = _path(self._place[0], image["file_name"], self._place[1])
            self._images.add(
                path,
                f"{self._root}/{path}",
                image_id=image["image_id"],
                frame_width=image["width"],
                frame_height=image["height"],
            )
        self._waiting.clear()

    def _once(self, rows: pa.Table) -> pa.Table:
        """The images without those that share a number: whose the objects are, nobody knows."""
        numbers = rows.column("image_id").to_numpy()
        _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        twice = counts[inverse] > 1
        for row in np.flatnonzero(twice).tolist():
            path, number = rows.column("path")[row].as_py(), int(numbers[row])
            self._tell(f"image {number}", kinds.IMAGE_TWICE, f"is {path} and another image")
            self._lost.append(number)
        return rows.filter(~twice)

    def _objects(self, class_ids: tuple[int, ...], rows: pa.Table) -> CocoObjects:
        """What reads the objects; those of images left out go with their images."""
        lost = np.array(self._lost, dtype=np.int64)
        numbers = np.concatenate([rows.column("image_id").to_numpy(), lost])
        sides = (rows.column(f"frame_{side}").fill_null(0) for side in ("width", "height"))
        frames = np.zeros((len(numbers), 2), dtype=np.int32)
        frames[: len(rows)] = np.stack(list(sides), axis=1)
        ids, first = np.unique(numbers, return_index=True)
        return CocoObjects(
            uri=self._uri,
            class_ids=class_ids,
            image_ids=ids,
            frames=frames[first],
            masked=self._masked,
        )

    def _tell(self, entry: str, kind: str, reason: str) -> None:
        self._faults.append(Fault(file=self._uri, entry=entry, kind=kind, reason=reason))


def _place(fs: FileSystem, root: str, name: str, images: list[dict[str, Any]]) -> tuple[str, int]:
    """The folder of the images, and how many last parts of their names count (0: all).

    Raises:
        DataError: none of the images is in any of the usual folders.
    """
    files = [item["file_name"] for item in images]
    stem = splitext(basename(name))[0].rpartition("_")[2]  # train2017, train
    folders = ["", stem, f"images/{stem}", split_of_file(stem) or stem, "images", f"{stem}/images"]
    for file, folder, tail in product(files, dict.fromkeys(folders), (0, 2, 1)):
        path = _path(folder, file, tail)
        if fs.get_file_info(f"{root}/{path}").type == FileType.File:
            return folder, tail
    raise DataError(
        join(root, name),
        files[0],
        f"is in none of the usual folders ({stem}/, images/{stem}/, {stem}/patch0/, ...)",
        "Put the images beside annotations/",
    )


def _path(folder: str, file_name: str, tail: int) -> str:
    parts = [part for part in file_name.split("/") if part not in ("", ".", "..")]
    return "/".join([*filter(None, [folder]), *parts[-tail:]])
