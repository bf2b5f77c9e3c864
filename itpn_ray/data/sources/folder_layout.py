"""Which folders of a source are its splits, told by their names and by what lies in them.

A split is a folder of class folders, or one of images where no other folder lies beside the
splits; a folder called ``train`` among folders of other names, all with images directly in them,
is a class (a train). Where this does not decide, the source is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from posixpath import dirname, relpath, splitext

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileSystem, FileType

from itpn_ray.data.sources.base import IMAGE_SUFFIXES, why_not
from itpn_ray.data.sources.splits import (
    SPLITS,
    SplitNames,
    split_of_file,
    split_of_name,
    splits_of_folders,
    unclear,
)
from itpn_ray.data.sources.walk import Entry, children, walk
from itpn_ray.errors import DataError
from itpn_ray.formatting import show_names

_ALL_CLASSES = "; where all are classes, --splits train=. says so"
_IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "pictures", "photos"))
# train, val, test and one more; five equal folders are rather classes with equal subfolders.
_MOST_SPLITS = 4
_LISTS = (".txt", ".csv", ".tsv")

Rows = tuple[tuple[str, str], ...]
"""(path, reason) of what is left out."""


@dataclass(frozen=True)
class Layout:
    """The splits of a source.

    Attributes:
        folders: split -> its folders.
        skipped: (path, reason) of what lies beside them.
        notes: what was guessed, in sentences.
        inner: whether class folders may have a folder a split inside them.
    """

    folders: Mapping[str, tuple[str, ...]]
    skipped: Rows = ()
    notes: tuple[str, ...] = ()
    inner: bool = False


def find_layout(fs: FileSystem, root: str, names: SplitNames, *, labelled: bool = True) -> Layout:
    """The splits of the source at ``root``; ``labelled``: where folders may be classes.

    Raises:
        DataError: names and contents contradict each other, or a name given is not there.
    """
    found = children(fs, root)
    folders = [entry for entry in found if entry.is_folder]
    beside = tuple(
        (entry.name, entry.problem or "left out: lies beside the folders of the splits")
        for entry in found
        if entry.problem or is_image(entry)
    )
    if names.given:
        return _given(fs, root, folders, names, beside)
    named = [entry for entry in folders if names.of_name(entry.name)]
    if not named:
        # What archives make of themselves: everything in one folder.
        if len(folders) == 1 and not any(map(is_image, found)):
            return _wrapped(fs, root, folders[0], names, beside)
        if labelled:
            _refuse_lookalikes(fs, root, folders)
        return Layout({"train": (root,)}, inner=True)
    # Folders without any image, such as docs/, decide nothing.
    others = [e for e in folders if e not in named and count_images(fs, e.path, 1)]
    splits = {str(names.of_name(entry.name)) for entry in named}
    # "train" among "car" and "bus" is the vehicle, as long as there are images in all of them.
    if others and len(splits) == 1 and not any(_has_folders(fs, e.path) for e in named + others):
        note = (
            f"{named[0].name} is taken for a class: as in "
            f"{show_names([e.name for e in others], 3)} beside it, there are images in it and no "
            "folders"
        )
        return Layout({"train": (root,)}, notes=(note,), inner=True)
    return _named(fs, root, named, others, names, beside)


def _refuse_lookalikes(fs: FileSystem, root: str, folders: Sequence[Entry]) -> None:
    """Refuse a few folders in which the same folders lie: splits, by names that are not known?

    Raises:
        DataError: there are such folders.
    """
    if not 2 <= len(folders) <= _MOST_SPLITS:
        return
    found = [children(fs, entry.path) for entry in folders]
    inside = [{entry.name for entry in entries if entry.is_folder} for entries in found]
    largest = max(inside, key=len)
    # A class may be missing from a split, so subsets of the largest count as the same.
    same = all(len(names) > 1 and names <= largest for names in inside)
    if any(map(split_of_name, largest)):  # splits inside of class folders
        return
    if same and not any(is_image(entry) for entries in found for entry in entries):
        seen = [entry.name for entry in folders]
        cause = (
            f"its folders hold the same folders ({show_names(sorted(largest), 3)}), as splits do"
        )
        raise unclear(root, seen, cause, _ALL_CLASSES)


def _named(
    fs: FileSystem,
    root: str,
    named: list[Entry],
    others: list[Entry],
    names: SplitNames,
    beside: Rows,
) -> Layout:
    """Splits by the folders' names, where all have one and no two the same."""
    seen = [f"{e.name} ({names.of_name(e.name) or 'no split'})" for e in [*named, *others]]
    if others:
        cause = f"the folder {others[0].name} is no split, unlike others"
        raise unclear(root, seen, cause, _ALL_CLASSES)
    by_split: dict[str, str] = {}
    for entry in named:
        split = str(names.of_name(entry.name))
        if split in by_split:
            raise unclear(root, seen, f"two folders are {split}")
        by_split[split] = _images_folder(fs, entry.path)
    return Layout({s: (by_split[s],) for s in SPLITS if s in by_split}, beside)


def _wrapped(
    fs: FileSystem, root: str, only: Entry, names: SplitNames, beside: Rows, depth: int = 3
) -> Layout:
    """The splits inside the only folder of a source, as unpacking makes it; else it is a class."""
    inside = [entry for entry in children(fs, only.path) if entry.is_folder]
    if any(names.of_name(entry.name) for entry in inside):
        found = find_layout(fs, only.path, names)
        note = f"the only folder, {relpath(only.path, root)}, is taken for the source itself"
        return replace(found, skipped=(*beside, *found.skipped), notes=(note, *found.notes))
    if len(inside) == 1 and depth:
        return _wrapped(fs, root, inside[0], names, beside, depth - 1)
    return Layout({"train": (root,)}, inner=True)


def _given(
    fs: FileSystem, root: str, inside: list[Entry], names: SplitNames, beside: Rows
) -> Layout:
    """The splits that the user named: folders below the root, or ``.`` for the root itself."""
    folders: dict[str, list[str]] = {}
    for split, own in names.given:
        path = root if own == "." else _path(fs, root, own)
        if path is None:
            raise DataError(
                "prepare.splits",
                f"{split}={own}",
                f"there is no such folder in {root}; there are "
                f"{show_names([e.name for e in inside])}",
                "Correct the name",
            )
        folders.setdefault(split, []).append(_images_folder(fs, path) if own != "." else path)
    taken = [path for paths in folders.values() for path in paths]
    skipped = [
        (entry.name, "left out: not named by --splits")
        for entry in inside
        if not any(f"{path}/".startswith(f"{entry.path}/") or path == root for path in taken)
    ]
    # With the root itself among the splits nothing lies beside them.
    beside = () if root in taken else beside
    return Layout({s: tuple(folders[s]) for s in SPLITS if s in folders}, (*beside, *skipped))


def _path(fs: FileSystem, root: str, name: str) -> str | None:
    """A folder below the root; in another case where there is none in this one."""
    path = root
    for part in name.split("/"):
        if fs.get_file_info(f"{path}/{part}").type != FileType.Directory:
            same = [e.name for e in children(fs, path) if e.name.casefold() == part.casefold()]
            if len(same) != 1:
                return None
            part = same[0]
        path = f"{path}/{part}"
    return path if fs.get_file_info(path).type == FileType.Directory else None


def is_image(entry: Entry) -> bool:
    """Whether an entry is a file with the suffix of an image."""
    suffix = splitext(entry.name)[1].lower()
    return not entry.is_folder and not entry.problem and suffix in IMAGE_SUFFIXES


def _has_folders(fs: FileSystem, folder: str) -> bool:
    return any(entry.is_folder for entry in children(fs, folder))


def count_images(fs: FileSystem, folder: str, most: int) -> int:
    """Files below a folder with the suffix of an image, counted no further than to ``most``."""
    return sum(1 for _ in islice(filter(is_image, walk(fs, folder)), most))


def _images_folder(fs: FileSystem, folder: str) -> str:
    """The folder itself, or the one in it that is called ``images`` and holds all there is."""
    found = children(fs, folder)
    inside = [entry for entry in found if entry.is_folder]
    images = [entry for entry in inside if entry.name.casefold() in _IMAGE_FOLDERS]
    if len(images) != 1 or any(map(is_image, found)):
        return folder
    others = [entry for entry in inside if entry not in images]
    return folder if any(count_images(fs, e.path, 1) for e in others) else images[0].path


def split_inside(table: pa.Table, uri: str, top: str) -> dict[str, pa.Table]:
    """A listing by the splits that folders inside of class folders name; all train without such.

    Args:
        table: the listing.
        uri: the source, for the error.
        top: the folder of the class folders, relative to the source.

    Raises:
        DataError: only a part of the images lies in such folders.
    """
    folders = [dirname(path) or "." for path in table.column("path").to_pylist()]
    found = splits_of_folders(
        folders,
        uri,
        below=lambda folder: relpath(folder, top).partition("/")[2],
        least=1,
        otherwise=_ALL_CLASSES,
    )
    if found is None:
        return {"train": table}
    named = np.array(found)
    return {split: table.filter(named == split) for split in SPLITS if split in found}


def left_beside(fs: FileSystem, root: str, folders: Sequence[str]) -> list[tuple[str, str]]:
    """(path, reason) of what lies beside class folders and might be taken for an image."""
    return [
        (relpath(entry.path, root), entry.problem or "left out: lies beside the class folders")
        for folder in folders
        for entry in children(fs, folder)
        if entry.problem or (not entry.is_folder and not why_not(entry))
    ]


def lists_beside(fs: FileSystem, root: str, split: str, folders: Sequence[str]) -> list[str]:
    """Text files that may hold the labels of a split: in its folders, or at the root by name."""
    # The folder above a split too, unless it is the root, whose files must name the split.
    above = {dirname(folder) for folder in folders if dirname(folder) != root}
    near = [name for folder in (*folders, *sorted(above)) for name in _lists(fs, root, folder)]
    return near + [name for name in _lists(fs, root, root) if split_of_file(name) == split]


def tables_beside(fs: FileSystem, root: str) -> list[str]:
    """Tables that may hold the labels of images for which no folders tell them."""
    return [name for name in _lists(fs, root, root) if not name.lower().endswith(".txt")]


def _lists(fs: FileSystem, root: str, folder: str) -> list[str]:
    return [
        relpath(entry.path, root)
        for entry in children(fs, folder)
        if not entry.is_folder and not entry.problem and entry.name.lower().endswith(_LISTS)
    ]
