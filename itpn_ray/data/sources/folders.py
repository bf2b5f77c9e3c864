"""Folders of pictures, as ImageNet is kept: a folder a split, in it a folder a class.

Understood, in this order:

1. ``train/``, ``val/`` (also ``validation/``, ``valid/``), ``test/``, each with a folder a class;
2. the same with pictures directly in them: no labels;
3. a folder a class, no splits;
4. pictures directly in the folder: no labels.

Pictures may lie deeper inside a class folder. With ``unlabelled`` every picture below a split
counts, whatever folder it is in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import basename, relpath

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from itpn_ray.data.sources.base import Listing, Source, check_classes, is_picture_name, to_table
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "test": "test",
}


@dataclass(frozen=True)
class FolderSource(Source):
    """Pictures in folders, local or in S3."""

    uri: str
    unlabelled: bool = False

    def listing(self) -> Listing:
        """See `Source.listing`; files are sorted by path."""
        fs, root = filesystem(self.uri)
        found = _children(fs, root)
        folders = {
            SPLIT_NAMES[info.base_name]: info.path
            for info in found
            if info.type == FileType.Directory and info.base_name in SPLIT_NAMES
        }
        if not folders:
            folders = {"train": root}
        skipped: list[tuple[str, str]] = []
        inside = {split: self._classes_of(fs, folder) for split, folder in folders.items()}
        classes = self._common_classes(inside)
        splits = {}
        for split, folder in folders.items():
            rows = list(_rows(fs, root, folder, classes, skipped))
            if rows:
                splits[split] = to_table(rows)
        if not splits:
            raise DataError(
                "source",
                self.uri,
                "holds no pictures",
                "Give the folder that has train/ and val/, or class folders, or pictures in it",
            )
        return Listing(
            kind="classification" if classes else "unlabelled",
            classes=classes,
            splits=splits,
            origins={split: relpath(folders[split], root) for split in splits},
            skipped=tuple(skipped),
        )

    def read(self, rows: pa.Table) -> Iterator[bytes | OSError]:
        """See `Source.read`."""
        fs, _ = filesystem(self.uri)
        for file in rows.column("file").to_pylist():
            yield read_file(fs, file)

    def _classes_of(self, fs: FileSystem, folder: str) -> tuple[str, ...]:
        """Names of the class folders of a split; none where its pictures have no labels."""
        if self.unlabelled:
            return ()
        children = _children(fs, folder)
        names = tuple(info.base_name for info in children if info.type == FileType.Directory)
        loose = [
            info.base_name
            for info in children
            if info.type == FileType.File and is_picture_name(info.base_name)
        ]
        if names and loose:
            raise DataError(
                "source",
                folder,
                f"has class folders ({names[0]}, ...) and pictures beside them ({loose[0]}, ...)",
                "Move the pictures into class folders, or pass --unlabelled to ignore folders",
            )
        return names

    def _common_classes(self, inside: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
        classes = inside.get("train") or max(inside.values(), key=len)
        for split, names in inside.items():
            unknown = sorted(set(names) - set(classes))
            if unknown or bool(names) != bool(classes):
                cause = (
                    f"{split} has classes that train has not: {', '.join(unknown[:5])}"
                    if unknown
                    else f"{split} has no class folders but other splits have"
                )
                raise DataError(
                    "source",
                    self.uri,
                    cause,
                    "Give all splits the same class folders, or pass --unlabelled",
                )
        if classes:
            check_classes(classes, self.uri)
        return classes


def read_file(fs: FileSystem, path: str) -> bytes | OSError:
    """A whole file, or the error of one that is gone or barred."""
    try:
        with fs.open_input_file(path) as stream:
            return stream.read()
    except (FileNotFoundError, PermissionError) as error:
        return error


def _children(fs: FileSystem, folder: str) -> list[FileInfo]:
    """What lies directly in a folder, sorted by name.

    Raises:
        DataError: it is missing or not a folder.
    """
    kind = fs.get_file_info(folder).type
    if kind != FileType.Directory:
        cause = "does not exist" if kind == FileType.NotFound else "is not a folder"
        raise DataError("source", folder, cause, "Check the path")
    found = fs.get_file_info(FileSelector(folder))
    return sorted(found, key=lambda info: info.base_name)


def _rows(
    fs: FileSystem,
    root: str,
    folder: str,
    classes: tuple[str, ...],
    skipped: list[tuple[str, str]],
) -> Iterator[dict[str, object]]:
    """Rows of the listing of one split."""
    places = [(f"{folder}/{name}", label) for label, name in enumerate(classes)] or [(folder, -1)]
    for place, label in places:
        selector = FileSelector(place, recursive=True, allow_not_found=True)
        for info in sorted(fs.get_file_info(selector), key=lambda info: info.path):
            if info.type != FileType.File:
                continue
            path = relpath(info.path, root)
            if is_picture_name(basename(info.path)):
                size = info.size or 0
                yield {"path": path, "file": info.path, "offset": 0, "size": size, "label": label}
            else:
                skipped.append((path, "not taken for a picture: its name has another suffix"))
