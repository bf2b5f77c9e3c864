"""Folders of images, as ImageNet is kept: a folder a split, in it a folder a class.

Understood, in this order:

1. ``train/``, ``val/`` (also ``validation/``, ``valid/``), ``test/``, each with a folder a class;
   a ``val/`` without class folders has its labels in a list (`itpn_ray.data.sources.lists`), and a
   ``test/`` without is left out;
2. the same with images directly in all of them: no labels;
3. a folder a class, no splits;
4. images directly in the folder: no labels.

Images may lie deeper inside a class folder. With ``unlabelled`` every image below a split
counts, whatever folder it is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import relpath

import pyarrow as pa
from pyarrow.fs import FileSystem

from itpn_ray.data.sources.base import (
    SPLIT_NAMES,
    Listing,
    Rows,
    Source,
    check_classes,
    label_numbers,
    why_not,
    with_labels,
)
from itpn_ray.data.sources.lists import read_classes, read_labels
from itpn_ray.data.sources.walk import children, files_below
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem


@dataclass(frozen=True)
class FolderSource(Source):
    """Images in folders, local or in S3.

    Attributes:
        uri: the folder.
        unlabelled: ignore the folders' names.
        classes: URI of a list of the class folders in the order of the labels; empty: sorted.
        labels: URI of a list of labels of a ``val/`` without class folders; may be empty.
    """

    uri: str
    unlabelled: bool = False
    classes: str = ""
    labels: str = ""

    def listing(self) -> Listing:
        """See `Source.listing`; files are sorted by path."""
        fs, root = filesystem(self.uri)
        folders = {
            SPLIT_NAMES[entry.name]: entry.path
            for entry in children(fs, root)
            if entry.is_folder and entry.name in SPLIT_NAMES
        } or {"train": root}
        inside = {split: self._class_folders(fs, folder) for split, folder in folders.items()}
        classes = self._classes(inside)
        skipped: list[tuple[str, str]] = []
        splits: dict[str, pa.Table] = {}
        for split, folder in folders.items():
            table = _list(fs, root, folder, classes if inside[split] else (), skipped)
            if table.num_rows and classes and not inside[split]:
                if split == "test":
                    reason = f"left out: its {table.num_rows} images have no labels"
                    skipped.append((relpath(folder, root), reason))
                    continue
                table = self._label(table, classes)
            if table.num_rows:
                splits[split] = table
        if not splits:
            raise DataError(
                "prepare.source",
                self.uri,
                "holds no images",
                "Give the folder that has train/ and val/, or class folders, or images in it",
            )
        return Listing(
            kind="classification" if classes else "unlabelled",
            classes=classes,
            splits=splits,
            origins={split: relpath(folders[split], root) for split in splits},
            skipped=tuple(skipped),
        )

    def _class_folders(self, fs: FileSystem, folder: str) -> tuple[str, ...]:
        """Names of the class folders of a split; none where its images have no labels."""
        if self.unlabelled:
            return ()
        found = children(fs, folder)
        names = tuple(entry.name for entry in found if entry.is_folder)
        loose = [entry.name for entry in found if not entry.is_folder and not why_not(entry)]
        if names and loose:
            raise DataError(
                "prepare.source",
                folder,
                f"has folders ({names[0]}, ...) and images beside them ({loose[0]}, ...)",
                "Move the images into class folders, or pass --unlabelled to ignore folders",
            )
        return names

    def _classes(self, inside: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Classes common to all splits."""
        classes = inside.get("train") or max(inside.values(), key=len)
        if self.classes and classes:
            classes = read_classes(self.classes)
        for split, names in inside.items():
            unknown = sorted(set(names) - set(classes))
            if unknown:
                known = "the list of classes" if self.classes else "train"
                raise DataError(
                    "prepare.source",
                    self.uri,
                    f"{split} has classes that {known} has not: {', '.join(unknown[:5])}",
                    "Give all splits the same class folders, or pass --unlabelled",
                )
        if classes:
            check_classes(classes, self.uri)
        return classes

    def _label(self, table: pa.Table, classes: tuple[str, ...]) -> pa.Table:
        """The images of a split without class folders with their labels from the list."""
        paths = table.column("path").to_pylist()
        if not self.labels:
            raise DataError(
                "prepare.source",
                self.uri,
                f"{paths[0]} lies in no class folder, unlike the images of train",
                "Give the list of its labels with --labels, or pass --unlabelled",
            )
        _, numbers = label_numbers(read_labels(self.labels, paths), classes, self.labels)
        return with_labels(table, numbers)


def _list(
    fs: FileSystem,
    root: str,
    folder: str,
    classes: tuple[str, ...],
    skipped: list[tuple[str, str]],
) -> pa.Table:
    """The listing of one split; classes in order, files sorted."""
    rows = Rows()
    places = [(f"{folder}/{name}", label) for label, name in enumerate(classes)] or [(folder, -1)]
    for place, label in places:
        for entry in files_below(fs, place):
            path = relpath(entry.path, root)
            problem = why_not(entry)
            if problem:
                skipped.append((path, problem))
            else:
                rows.add(path, entry.path, size=entry.size or 0, label=label)
    return rows.table()
