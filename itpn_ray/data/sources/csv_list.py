"""A CSV list of images: columns ``path``, and ``label`` and ``split`` where there are any."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from posixpath import dirname

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileType

from itpn_ray.data.sources.base import (
    SPLIT_NAMES,
    Listing,
    Rows,
    Source,
    check_classes,
    label_numbers,
    with_labels,
)
from itpn_ray.data.sources.lists import read_classes, read_lines
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

_SIZES_AT_ONCE = 1024


@dataclass(frozen=True)
class CsvList(Source):
    """Images named in a list; paths are relative to its folder, or absolute.

    Attributes:
        uri: the list.
        unlabelled: ignore the labels.
        classes: URI of a list of class names in the order of the labels; may be empty.
    """

    uri: str
    unlabelled: bool = False
    classes: str = ""

    def listing(self) -> Listing:
        """See `Source.listing`; rows in the order of the list."""
        found = self._rows()
        split_names = sorted({row.get("split") or "train" for row in found})
        unknown = [name for name in split_names if name not in SPLIT_NAMES]
        if unknown:
            raise DataError(
                self.uri, unknown[0], "is no split", f"Name {', '.join(SPLIT_NAMES)} as splits"
            )
        labelled = "label" in found[0] and not self.unlabelled
        classes: tuple[str, ...] = ()
        labels = None
        if labelled:
            given = read_classes(self.classes) if self.classes else ()
            classes, labels = label_numbers([row["label"] for row in found], given, self.uri)
            check_classes(classes, self.uri)
        table = self._table([row["path"] for row in found])
        if labels is not None:
            table = with_labels(table, labels)
        named = np.array([SPLIT_NAMES[row.get("split") or "train"] for row in found])
        splits = {str(name): table.filter(named == name) for name in np.unique(named)}
        return Listing(
            kind="classification" if labelled else "unlabelled",
            classes=classes,
            splits=splits,
            origins={name: f"rows of split {name}" for name in splits},
        )

    def _rows(self) -> list[dict[str, str]]:
        rows = list(csv.DictReader(read_lines(self.uri)))
        if not rows or "path" not in rows[0]:
            cause = "has no column 'path'" if rows else "lists no images"
            raise DataError("prepare.source", self.uri, cause, "Begin it with a line 'path,label'")
        for number, row in enumerate(rows, start=2):
            if any(value is None for value in row.values()) or None in row:
                raise DataError(
                    self.uri, f"line {number}", "has another number of fields", "Correct it"
                )
            if "\0" in row["path"]:
                raise DataError(self.uri, f"line {number}", "holds a zero byte", "Correct it")
        return rows

    def _table(self, paths: list[str]) -> pa.Table:
        """The listing without labels; a file that is missing shows when it is read."""
        fs, list_path = filesystem(self.uri)
        rows = Rows()
        for start in range(0, len(paths), _SIZES_AT_ONCE):
            part = paths[start : start + _SIZES_AT_ONCE]
            files = [_absolute(path, dirname(list_path)) for path in part]
            for path, file, info in zip(part, files, fs.get_file_info(files), strict=True):
                rows.add(path, file, size=info.size if info.type == FileType.File else 0)
        return rows.table()


def _absolute(path: str, folder: str) -> str:
    if path.startswith("s3://"):
        return path.removeprefix("s3://")
    return path if path.startswith("/") else f"{folder}/{path}"
