"""Folders of images, as ImageNet is kept: a folder a split, in it a folder a class.

Understood, in this order:

1. folders of the splits, whose names `itpn_ray.data.sources.splits` knows, each with a folder a
   class; a split without class folders has its labels in a list (`itpn_ray.data.sources.lists`),
   given or found beside it, and a test split without any is left out;
2. the same with images directly in all of them: no labels;
3. a folder a class, no splits, or folders of the splits inside each class folder;
4. images directly in the folder: no labels.

Images may lie deeper inside a class folder. With ``unlabelled`` every image below a split
counts, whatever folder it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import relpath

import pyarrow as pa
from pyarrow.fs import FileSystem

from itpn_ray.data.sources.base import Listing, Rows, Source, check_classes, why_not, with_labels
from itpn_ray.data.sources.folder_layout import (
    find_layout,
    is_image,
    left_beside,
    lists_beside,
    split_inside,
    tables_beside,
)
from itpn_ray.data.sources.labels import label_numbers, without_empty
from itpn_ray.data.sources.lists import find_labels, read_classes, read_labels
from itpn_ray.data.sources.splits import USUAL_NAMES, SplitNames
from itpn_ray.data.sources.walk import children, files_below
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of, show_names
from itpn_ray.storage import filesystem, join

_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".rar", ".7z")


@dataclass(frozen=True)
class FolderSource(Source):
    """Images in folders, local or in S3.

    Attributes:
        uri: the folder.
        unlabelled: ignore the folders' names.
        classes: URI of a list of the class folders in the order of the labels; empty: sorted.
        labels: URI of a list of labels of a ``val/`` without class folders; may be empty.
        splits: names of the splits.
    """

    uri: str
    unlabelled: bool = False
    classes: str = ""
    labels: str = ""
    splits: SplitNames = USUAL_NAMES

    def listing(self) -> Listing:
        """See `Source.listing`; files are sorted by path."""
        return _Reading(self, *filesystem(self.uri)).listing()


class _Reading:
    """Folders that are being listed."""

    def __init__(self, source: FolderSource, fs: FileSystem, root: str) -> None:
        self._source = source
        self._fs = fs
        self._root = root
        self._layout = find_layout(fs, root, source.splits, labelled=not source.unlabelled)
        self._skipped = list(self._layout.skipped)
        self._notes = list(self._layout.notes)

    def listing(self) -> Listing:
        """List everything."""
        inside = {
            split: self._class_folders(where) for split, where in self._layout.folders.items()
        }
        classes = self._classes(inside)
        splits = self._splits(inside, classes)
        if not splits:
            raise _no_images(self._source.uri, [path for path, _ in self._skipped])
        # A given list is kept whole: its length is that of the network's head.
        if not self._source.classes:
            classes, splits, empty = without_empty(classes, splits)
            self._notes += (
                [f"there are no images in {show_names(empty)}: no class"] if empty else []
            )
        self._check(classes)
        splits, origins = self._inside(splits)
        return Listing(
            kind="classification" if classes else "unlabelled",
            classes=classes,
            splits=splits,
            origins=origins,
            skipped=tuple(self._skipped),
            notes=tuple(self._notes),
        )

    def _class_folders(self, folders: Sequence[str]) -> tuple[str, ...]:
        """Names of the class folders of a split; none where its images have no labels."""
        if self._source.unlabelled:
            return ()
        # A split may lie in several folders (train/ of each part of a data set), whose classes are
        # one list.
        found = [entry for folder in folders for entry in children(self._fs, folder)]
        names = sorted({entry.name for entry in found if entry.is_folder})
        loose = [entry.path for entry in found if is_image(entry)]
        if names and loose:
            raise DataError(
                "prepare.source",
                self._source.uri,
                f"has folders ({names[0]}, ...) and images beside them ({loose[0]}, ...)",
                "Move the images into class folders, or pass --unlabelled to ignore folders",
            )
        return tuple(names)

    def _classes(self, inside: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Classes common to all splits."""
        # Without train, the split with the most class folders: the others' are to be among them.
        classes = inside.get("train") or max(inside.values(), key=len)
        if self._source.classes and classes:
            classes = read_classes(self._source.classes)
        for split, names in inside.items():
            unknown = sorted(set(names) - set(classes))
            if unknown:
                known = "the list of classes" if self._source.classes else "train"
                raise DataError(
                    "prepare.source",
                    self._source.uri,
                    f"{split} has classes that {known} has not: {show_names(unknown)}",
                    "Give all splits the same class folders, or pass --unlabelled",
                )
        return classes

    def _splits(
        self, inside: dict[str, tuple[str, ...]], classes: tuple[str, ...]
    ) -> dict[str, pa.Table]:
        """The images of each split that has some."""
        splits = {}
        for split, folders in self._layout.folders.items():
            names = classes if inside[split] else ()
            if names:
                self._skipped += left_beside(self._fs, self._root, folders)
            table = _list(self._fs, self._root, folders, names, self._skipped)
            if table.num_rows and classes and not names:
                table = self._label(split, table, classes)
            if table.num_rows:
                splits[split] = table
        return splits

    def _label(self, split: str, table: pa.Table, classes: tuple[str, ...]) -> pa.Table:
        """The images of a split without class folders with their labels from a list.

        Those of a test split without a list are left out.
        """
        paths = table.column("path").to_pylist()
        given = self._source.labels
        found: tuple[str, list[str]] | None
        # --labels is about val: test labels are rarely published, so they are only looked for
        # beside it.
        if given and split != "test":
            found = given, read_labels(given, paths)
        else:
            beside = lists_beside(self._fs, self._root, split, self._layout.folders[split])
            found = find_labels([join(self._source.uri, name) for name in beside], paths, classes)
        if found is not None:
            self._notes.append(f"the labels of {split} are those of {found[0]}")
            return with_labels(table, label_numbers(found[1], classes, found[0], paths)[1])
        if split == "test":
            reason = f"left out: {number_of(table.num_rows, 'image')} without labels"
            self._skipped.append((split, reason))
            # Without a row the split falls out.
            return table.slice(0, 0)
        raise DataError(
            "prepare.source",
            self._source.uri,
            f"{paths[0]} lies in no class folder, unlike the images of train",
            "Give the list of its labels with --labels, or pass --unlabelled",
        )

    def _check(self, classes: tuple[str, ...]) -> None:
        """Refuse a single class; where tables lie beside the images, they may hold the labels."""
        if len(classes) > 1 or self._source.unlabelled:
            return
        uri = self._source.uri
        tables = tables_beside(self._fs, self._root)
        if classes and tables:
            raise DataError(
                "prepare.source",
                uri,
                f"all images are of one class ({classes[0]})",
                f"If {tables[0]} tells their classes: --source {join(uri, tables[0])}",
            )
        if classes:
            check_classes(classes, uri)
        elif tables:
            note = f"no labels are taken from {show_names(tables, 3)}; --source reads such a list"
            self._notes.append(note)

    def _inside(self, splits: dict[str, pa.Table]) -> tuple[dict[str, pa.Table], dict[str, str]]:
        """The splits, also those inside of class folders, and where each comes from."""
        folders = {
            split: [relpath(folder, self._root) for folder in self._layout.folders[split]]
            for split in splits
        }
        if self._layout.inner:
            inner = split_inside(splits["train"], self._source.uri, folders["train"][0])
            if len(inner) > 1:
                return inner, {split: f"the {split} folders inside others" for split in inner}
            return inner, dict.fromkeys(inner, "the whole folder")
        return splits, {split: ", ".join(names) for split, names in folders.items()}


def _no_images(uri: str, files: Sequence[str]) -> DataError:
    packed = [path for path in files if path.lower().endswith(_ARCHIVES)]
    if packed:
        cause = f"holds no images, but {show_names(packed, 3)}"
        return DataError("prepare.source", uri, cause, "Unpack archives first")
    return DataError(
        "prepare.source",
        uri,
        "holds no images",
        "Give the folder that has train/ and val/, or class folders, or images in it",
    )


def _list(
    fs: FileSystem,
    root: str,
    folders: Sequence[str],
    classes: Sequence[str],
    skipped: list[tuple[str, str]],
) -> pa.Table:
    """The listing of one split; classes in order, files sorted."""
    rows = Rows()
    # Ordered by class, then by folder: a class's images lie together wherever they come from.
    places = [
        (f"{folder}/{name}", label) for label, name in enumerate(classes) for folder in folders
    ] or [(folder, -1) for folder in folders]
    for place, label in places:
        for entry in files_below(fs, place):
            path = relpath(entry.path, root)
            problem = why_not(entry)
            if problem:
                skipped.append((path, problem))
            else:
                rows.add(path, entry.path, size=entry.size or 0, label=label)
    return rows.table()
