"""Reads what a COCO annotation file lists beside its objects: categories and images."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileSystem

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import Fault
from itpn_ray.data.sources.annotated.base import IMAGE_SCHEMA, AnnotatedSplit, frames_of
from itpn_ray.data.sources.annotated.coco_entries import parse_category, parse_image
from itpn_ray.data.sources.annotated.coco_image_folder import ImageFolder, find_image_folder
from itpn_ray.data.sources.annotated.ids import Id, IdNumbers, read_id
from itpn_ray.data.sources.annotated.objects import CocoObjects, read_arrays
from itpn_ray.data.sources.base import Rows
from itpn_ray.errors import DataError

# Images looked for when guessing where they lie; some may be missing.
_TRIES = 20


def read_coco_file(fs: FileSystem, root: str, name: str, split: str, uri: str) -> AnnotatedSplit:
    """Read an annotation file but for its objects.

    Args:
        fs: where it lies.
        root: the source in it.
        name: the file, relative to the source.
        split: which it is.
        uri: the file.

    Raises:
        DataError: it cannot be read, lists nothing, or its images are not found.
    """
    return _Reading(fs, root, name, split, uri).read()


class _Reading:
    """An annotation file that is being read."""

    def __init__(self, fs: FileSystem, root: str, name: str, split: str, uri: str) -> None:
        self._fs = fs
        self._root = root
        self._name = name
        self._split = split
        self._uri = uri
        self._categories: dict[Id, str] = {}
        self._images = Rows(IMAGE_SCHEMA)
        self._numbers = IdNumbers()
        self._waiting: list[dict[str, Any]] = []
        self._place: ImageFolder | None = None
        self._lost: list[int] = []  # numbers of images whose entries cannot be used
        self._faults: list[Fault] = []

    def read(self) -> AnnotatedSplit:
        """Read it to its end."""
        for key, item in read_arrays(self._uri, ("categories", "images")):
            if key == "categories":
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
        # Labels follow the ids, not the order in a file, so that train and val agree.
        categories = dict(sorted(self._categories.items(), key=lambda item: _order(item[0])))
        return AnnotatedSplit(
            name=self._name,
            categories=categories,
            rows=rows,
            objects=self._objects({found: n for n, found in enumerate(categories)}, rows),
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
            # Remembered where it can be read, so that its
            # objects are not called those of an unknown image.
            with suppress(FaultError):
                self._lost.append(self._numbers.add(read_id(item, "id")))
        # Once the folder is known, at once; until then names gather, to find it by.
        if self._place is not None or len(self._waiting) == _TRIES:
            self._list()

    def _list(self) -> None:
        """Move the images that wait for the place of their files to the listing."""
        if not self._waiting:
            return
        if self._place is None:
            names = [image["file_name"] for image in self._waiting]
            self._place = find_image_folder(self._fs, self._root, self._name, self._split, names)
        for image in self._waiting:
            path = self._place.path(image["file_name"])
            self._images.add(
                path,
                f"{self._root}/{path}",
                image_id=self._numbers.add(image["id"]),
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

    def _objects(self, labels: dict[Id, int], rows: pa.Table) -> CocoObjects:
        """What reads the objects; those of images left out go with their images."""
        lost = np.array(self._lost, dtype=np.int64)
        numbers = np.concatenate([rows.column("image_id").to_numpy(), lost])
        # Images left out have numbers, too: their objects are then "of an image that is left out",
        # not unknown.
        frames = np.zeros((len(numbers), 2), dtype=np.int32)
        frames[: len(rows)] = frames_of(rows)
        # Rows come before lost ones: of equal numbers the first has the frame.
        ids, first = np.unique(numbers, return_index=True)
        return CocoObjects(
            uri=self._uri,
            labels=labels,
            image_ids=ids,
            frames=frames[first],
            numbers=self._numbers,
        )

    def _tell(self, entry: str, kind: str, reason: str) -> None:
        self._faults.append(Fault(file=self._uri, entry=entry, kind=kind, reason=reason))


def _order(found: Id) -> tuple[bool, Id]:
    """Numbers first, then text."""
    return isinstance(found, str), found
