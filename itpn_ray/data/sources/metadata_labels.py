"""``metadata.jsonl`` with a label an image, as Hugging Face's image folders keep them:
``{"file_name": "a.png", "label": "cat"}``, in the source or in a folder for each split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from posixpath import dirname
from typing import Any

from pyarrow.fs import FileSystem

from itpn_ray.data.sources.base import (
    LISTING_SCHEMA,
    Listing,
    Rows,
    Source,
    check_classes,
    label_numbers,
    with_labels,
)
from itpn_ray.data.sources.coco_places import Place
from itpn_ray.data.sources.ids import is_text
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.metadata import LABELS, metadata_by_split, read_entries
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem


@dataclass(frozen=True)
class MetadataLabels(Source):
    """Images with a label each in ``metadata.jsonl``.

    Attributes:
        uri: the folder.
        classes: URI of a list of the classes in the order of the labels; empty: sorted.
    """

    uri: str
    classes: str = ""

    def listing(self) -> Listing:
        """See `Source.listing`; images in the order of the lines."""
        fs, root = filesystem(self.uri)
        files = metadata_by_split(fs, root, LABELS)
        labels: list[str | int] = []
        tables = {}
        for split, path in files.items():
            rows = Rows(LISTING_SCHEMA)
            for image, label in self._entries(fs, root, path):
                rows.add(image, f"{root}/{image}")
                labels.append(label)
            tables[split] = rows.table()
        names = read_classes(self.classes) if self.classes else ()
        classes, numbers = label_numbers(labels, names, self.uri)
        check_classes(classes, self.uri)
        start = 0
        for split, table in tables.items():
            tables[split] = with_labels(table, numbers[start : start + len(table)])
            start += len(table)
        return Listing(kind="classification", classes=classes, splits=tables, origins=files)

    def _entries(self, fs: FileSystem, root: str, path: str) -> Iterator[tuple[str, str | int]]:
        """The images of a file and their labels."""
        place = Place(dirname(path), 0)
        for line, entry in read_entries(fs, f"{root}/{path}"):
            name, label = entry.get("file_name"), _label(entry)
            if not is_text(name) or not name or label is None:
                what = "file_name" if label is not None else "label"
                raise DataError(
                    f"{self.uri}/{path}",
                    None,
                    f"line {line} has no {what} that can be used",
                    "Correct or remove the line",
                )
            yield place.path(name), label


def _label(entry: Mapping[str, Any]) -> str | int | None:
    label = next((entry[name] for name in LABELS if name in entry), None)
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        return None
    if isinstance(label, float):
        return int(label) if label.is_integer() else None
    if isinstance(label, str):
        return label.strip() or None if is_text(label) else None
    return label
