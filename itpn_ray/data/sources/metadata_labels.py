"""``metadata.jsonl`` with a label an image, as Hugging Face's image folders keep them:
``{"file_name": "a.png", "label": "cat"}``, in the source or in a folder for each split; or with
several labels an image, ``"label": ["cat", "dog"]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import dirname

from pyarrow.fs import FileSystem

from itpn_ray.data.sources.annotated.coco_image_folder import ImageFolder
from itpn_ray.data.sources.annotated.ids import is_text
from itpn_ray.data.sources.annotated.metadata import LABELS, metadata_by_split, read_entries
from itpn_ray.data.sources.base import (
    LISTING_SCHEMA,
    Listing,
    Rows,
    Source,
)
from itpn_ray.data.sources.label_values import Label, as_labels
from itpn_ray.data.sources.labels import label_splits
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.several_labels.sets import (
    KIND,
    label_set_splits,
    label_sets,
    without_labels_note,
)
from itpn_ray.data.sources.splits import USUAL_NAMES, SplitNames
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

_HINT = "Correct or remove the line"


@dataclass(frozen=True)
class MetadataLabels(Source):
    """Images with a label each, or a list of labels each, in ``metadata.jsonl``.

    Attributes:
        uri: the folder.
        classes: URI of a list of the classes in the order of the labels; empty: sorted.
        splits: names of the splits.
    """

    uri: str
    classes: str = ""
    splits: SplitNames = USUAL_NAMES

    def listing(self) -> Listing:
        """See `Source.listing`; images in the order of the lines."""
        fs, root = filesystem(self.uri)
        files = metadata_by_split(fs, root, LABELS, self.splits)
        labels: list[Label | list[Label]] = []
        tables = {}
        for split, path in files.items():
            rows = Rows(LISTING_SCHEMA)
            for image, label in self._entries(fs, root, path):
                rows.add(image, f"{root}/{image}")
                labels.append(label)
            tables[split] = rows.table()
        names = read_classes(self.classes) if self.classes else ()
        single = [label for label in labels if not isinstance(label, list)]
        several = [label for label in labels if isinstance(label, list)]
        if single and several:
            cause = "has a list of labels in some lines, and one label in others"
            raise DataError("prepare.source", self.uri, cause, "Write a list in every line")
        if not several:
            classes, tables = label_splits(tables, single, names, self.uri)
            return Listing(kind="classification", classes=classes, splits=tables, origins=files)
        classes, sets = label_sets(several, names, self.uri)
        return Listing(
            kind=KIND,
            classes=classes,
            splits=label_set_splits(tables, sets),
            origins=files,
            notes=without_labels_note(sets),
        )

    def _entries(
        self, fs: FileSystem, root: str, path: str
    ) -> Iterator[tuple[str, Label | list[Label]]]:
        """The images of a file and their labels."""
        place = ImageFolder(dirname(path), 0)
        for line, entry in read_entries(fs, f"{root}/{path}"):
            where = f"{self.uri}/{path}, line {line}"
            name = entry.get("file_name")
            value = next((entry[field] for field in LABELS if field in entry), None)
            label = as_labels(value, where, _HINT)
            if not is_text(name) or not name or label is None:
                what = "file_name" if label is not None else "label"
                raise DataError(where, None, f"has no {what} that can be used", _HINT)
            yield place.path(name), label
