"""Lists files and folders, local or in S3, without falling for what real folders hold.

What programs leave behind (`itpn_ray.data.sources.leftovers`) is among the entries, with a problem.

Pyarrow's own listing stops at names that are not UTF-8 and walks in circles through links to parent
folders, so local folders are walked here; remote ones by pyarrow.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import basename

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from itpn_ray.data.sources.leftovers import LEFTOVER, is_leftover, lies_in_leftover
from itpn_ray.errors import DataError

NOT_UTF8 = "its name is not UTF-8"
NOT_A_FILE = "not a regular file"
DEAD_LINK = "a link to nowhere"
LOOP = "a link to a folder that it lies in"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder.

    Attributes:
        path: in its filesystem.
        size: bytes of a file; ``None`` for a folder.
        problem: why it cannot be read, if so.
    """

    path: str
    size: int | None
    problem: str = ""

    @property
    def name(self) -> str:
        """Last part of the path."""
        return basename(self.path)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder that can be listed."""
        return self.size is None and not self.problem


def children(fs: FileSystem, folder: str) -> list[Entry]:
    """What lies directly in a folder, sorted by name.

    Raises:
        DataError: it is missing, not a folder, or must not be read.
    """
    kind = fs.get_file_info(folder).type
    if kind != FileType.Directory:
        cause = "does not exist" if kind == FileType.NotFound else "is not a folder"
        raise DataError("prepare.source", folder, cause, "Check the path")
    if isinstance(fs, LocalFileSystem):
        return sorted(_scan(folder), key=lambda entry: entry.path)
    entries = [_remote(info, folder) for info in fs.get_file_info(FileSelector(folder))]
    return sorted(entries, key=lambda entry: entry.path)


def files_below(fs: FileSystem, folder: str) -> list[Entry]:
    """All files in a folder and its subfolders, sorted by path; none if there is no such folder.

    Links are followed. What cannot be read is among them, with its problem.
    """
    if isinstance(fs, LocalFileSystem):
        found = _walk(folder, frozenset()) if os.path.isdir(folder) else iter(())
        return sorted(found, key=lambda entry: entry.path)
    selector = FileSelector(folder, recursive=True, allow_not_found=True)
    infos = [info for info in fs.get_file_info(selector) if info.is_file]
    return sorted((_remote(info, folder) for info in infos), key=lambda entry: entry.path)


def walk(fs: FileSystem, folder: str) -> Iterator[Entry]:
    """All files in a folder and its subfolders, in any order: for whoever wants only some."""
    if isinstance(fs, LocalFileSystem):
        return _walk(folder, frozenset())
    return iter(files_below(fs, folder))


def _remote(info: FileInfo, folder: str) -> Entry:
    problem = LEFTOVER if lies_in_leftover(info.path[len(folder) :]) else ""
    return Entry(info.path, info.size if info.is_file else None, problem)


def _walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
    here = os.stat(folder)
    # Paths through a link to a folder above never end; device and inode tell that folder again.
    above |= {(here.st_dev, here.st_ino)}
    for entry in _scan(folder):
        if not entry.is_folder:
            yield entry
            continue
        there = os.stat(entry.path)
        if (there.st_dev, there.st_ino) in above:
            yield Entry(entry.path, None, LOOP)
        else:
            yield from _walk(entry.path, above)


def _scan(folder: str) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as found:
            for item in found:
                yield _entry(item)
    except PermissionError as error:
        raise DataError(
            "prepare.source", folder, "must not be listed", "Give yourself the right to read it"
        ) from error


def _entry(item: os.DirEntry[str]) -> Entry:
    # os.scandir has bytes that are no UTF-8 as surrogates, which pyarrow and JSON refuse.
    path = item.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if path != item.path:
        return Entry(path, None, NOT_UTF8)
    if is_leftover(item.name):
        return Entry(path, None, LEFTOVER)
    try:
        found = item.stat()
    except OSError:
        return Entry(path, None, DEAD_LINK)
    # Pipes, sockets and devices could block a read for ever: only regular files are read.
    if stat.S_ISDIR(found.st_mode):
        return Entry(path, None)
    return Entry(path, found.st_size, "" if stat.S_ISREG(found.st_mode) else NOT_A_FILE)
