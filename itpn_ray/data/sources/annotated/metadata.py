"""``metadata.jsonl`` with boxes, as Hugging Face's image folders keep them: a line an image.

``{"file_name": "a.png", "objects": {"bbox": [[x, y, width, height]], "categories": [0]}}``. The
images lie beside the file, in the source or in a folder for each split. ``objects`` may also be
a list with an entry an object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from posixpath import dirname, relpath
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileSystem

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import Fault
from itpn_ray.data.sources.annotated.base import IMAGE_SCHEMA, AnnotatedSource, AnnotatedSplit
from itpn_ray.data.sources.annotated.coco_image_folder import ImageFolder
from itpn_ray.data.sources.annotated.ids import Id, is_text, read_id
from itpn_ray.data.sources.annotated.near import files_near
from itpn_ray.data.sources.annotated.objects import Item, ObjectSet
from itpn_ray.data.sources.annotated.paired import by_id
from itpn_ray.data.sources.annotated.pairs import read_files
from itpn_ray.data.sources.base import Rows
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.splits import SPLITS, USUAL_NAMES, SplitNames
from itpn_ray.data.sources.text import decode
from itpn_ray.data.sources.walk import Entry
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of, show_names
from itpn_ray.storage import filesystem

NAME = "metadata.jsonl"
OBJECTS = ("objects",)
LABELS = ("label", "labels", "class", "category", "target")
"""Fields of a line that hold objects, or the label of an image."""
_CATEGORY = ("category_id", "categories", "category", "label", "labels", "class", "classes")
_BOX = ("bbox", "bboxes", "boxes", "box")


@dataclass(frozen=True, kw_only=True, eq=False)
class MetadataObjects(ObjectSet):
    """The objects of one file."""

    path: str

    def items(self) -> Iterator[Item]:
        """See `ObjectSet.items`."""
        fs, root = filesystem(self.uri)
        number = 0
        for line, entry in read_entries(fs, f"{root}/{self.path}"):
            for place, fields in enumerate(objects_of(entry), 1):
                number += 1
                yield Item(
                    file=self.path,
                    entry=f"line {line} object {place}",
                    number=number,
                    fields=fields | {"image_id": line} if isinstance(fields, dict) else fields,
                )


@dataclass(frozen=True)
class MetadataSource(AnnotatedSource):
    """A data set with its objects in ``metadata.jsonl``.

    Attributes:
        uri: the folder.
        classes: URI of a list of the classes in the order of the labels; empty: those that occur.
        splits: names of the splits.
    """

    uri: str
    classes: str = ""
    splits: SplitNames = USUAL_NAMES

    def files(self) -> Iterator[tuple[str, AnnotatedSplit]]:
        """See `AnnotatedSource.files`; images in the order of the lines."""
        fs, root = filesystem(self.uri)
        parts = metadata_by_split(fs, root, OBJECTS, self.splits)
        categories = self._categories(fs, root, list(parts.values()))
        for split, path in parts.items():
            yield split, self._split(fs, root, path, categories)

    def _categories(self, fs: FileSystem, root: str, paths: list[str]) -> dict[Id, str]:
        found: set[Id] = set()
        for path in paths:
            for _, entry in read_entries(fs, f"{root}/{path}"):
                found.update(_categories_of(entry))
        if self.classes:
            names = read_classes(self.classes)
            numbered = all(isinstance(name, int) for name in found)
            # --classes names the numbers where the file has numbers, else it says which words
            # count.
            return dict(enumerate(names)) if numbered else by_id(names)
        return {name: str(name) for name in sorted(found, key=lambda i: (isinstance(i, str), i))}

    def _split(
        self, fs: FileSystem, root: str, path: str, categories: dict[Id, str]
    ) -> AnnotatedSplit:
        rows = Rows(IMAGE_SCHEMA)
        faults = []
        place = ImageFolder(dirname(path), 0)
        # The number of the line is the image's id: file names may repeat, lines do not.
        for line, entry in read_entries(fs, f"{root}/{path}"):
            name = entry.get("file_name")
            if not is_text(name) or not name:
                reason = f"has {name!r} as its file_name"
                faults.append(
                    Fault(file=path, entry=f"line {line}", kind=kinds.ENTRY, reason=reason)
                )
                continue
            image = place.path(name)
            rows.add(image, f"{root}/{image}", image_id=line, frame_width=None, frame_height=None)
        if not len(rows):
            raise DataError(path, None, "names no images", "Check the file")
        table: pa.Table = rows.table()
        numbers = table.column("image_id").to_numpy()
        return AnnotatedSplit(
            name=path,
            categories=categories,
            rows=table,
            objects=MetadataObjects(
                uri=self.uri,
                labels={found: n for n, found in enumerate(categories)},
                image_ids=numbers,
                # The file tells no sizes: 0 is unknown.
                frames=np.zeros((len(numbers), 2), dtype=np.int32),
                path=path,
            ),
            faults=tuple(faults),
        )


def metadata_by_split(
    fs: FileSystem, root: str, fields: Sequence[str], names: SplitNames
) -> dict[str, str]:
    """Split -> file whose lines have one of these fields, relative to the source; train first.

    Raises:
        DataError: there is none, or two are of one split.
    """
    parts: dict[str, str] = {}
    files = metadata_files(fs, root, files_near(fs, root), fields)
    if not files:
        reason = f"has no {NAME} whose lines have {fields[0]}"
        raise DataError("prepare.source", root, reason, "Check the folder")
    by_split, _ = names.sort_files([dirname(path) for path in files], root)
    for split, folders in by_split.items():
        if len(folders) > 1:
            reason = f"has {NAME} in {show_names(folders)}, which are all {split}"
            raise DataError("prepare.source", root, reason, "Leave one of them there")
        parts[split] = f"{folders[0]}/{NAME}".lstrip("/")
    return {split: parts[split] for split in SPLITS if split in parts}


def metadata_files(
    fs: FileSystem, root: str, near: Sequence[Entry], fields: Sequence[str]
) -> list[str]:
    """Those of a source's files whose lines have one of these fields, relative to it."""
    found = [entry.path for entry in near if entry.name == NAME]
    return [
        relpath(path, root)
        for path in found
        # Any line: the first images may be without objects.
        if any(set(fields) & set(entry) for _, entry in read_entries(fs, path))
    ]


def read_entries(fs: FileSystem, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a file that are not blank: number from 1, and what it holds.

    Raises:
        DataError: it cannot be read, or a line is no JSON object.
    """
    (data,) = read_files(fs, [path])
    if isinstance(data, OSError):
        raise DataError(path, None, f"cannot be read: {data}", "Check your rights")
    try:
        for number, line in enumerate(decode(data).splitlines(), 1):
            if line.strip():
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError(f"line {number} is no JSON object")
                yield number, entry
    except (ValueError, RecursionError) as error:
        raise DataError(path, None, f"cannot be read: {error}", "Write an object a line") from error


def objects_of(entry: Mapping[str, Any]) -> Iterator[dict[str, Any] | FaultError]:
    """The objects of a line, as COCO names their fields; or why one cannot be read."""
    found = entry.get("objects") or []
    if isinstance(found, dict):
        boxes, categories = _field(found, _BOX), _field(found, _CATEGORY)
        if not isinstance(boxes, list) or not isinstance(categories, list):
            yield FaultError(kinds.ENTRY, "has no lists of boxes and categories")
        elif len(boxes) != len(categories):
            boxes_told = number_of(len(boxes), "box", "boxes")
            reason = f"has {boxes_told} and {number_of(len(categories), 'category', 'categories')}"
            yield FaultError(kinds.ENTRY, reason)
        else:
            for box, category in zip(boxes, categories, strict=True):
                yield {"bbox": box, "category_id": category}
        return
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, dict):
            yield {**one, "bbox": _field(one, _BOX), "category_id": _field(one, _CATEGORY)}
        else:
            yield FaultError(kinds.ENTRY, "is no object with a box and a category")


def _categories_of(entry: Mapping[str, Any]) -> Iterator[Id]:
    for fields in objects_of(entry):
        with suppress(FaultError):
            if isinstance(fields, dict):
                yield read_id(fields, "category_id")


def _field(found: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((found[name] for name in names if name in found), None)
