"""Finds the files that a list names, also where the list was written on another machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from pyarrow.fs import FileSystem, FileType

# Paths looked for when guessing what they are relative to; some may be missing.
_TRIES = 20
# Bytes that Linux, macOS and S3 take at most.
_LONGEST_NAME = 255
_LONGEST_PATH = 1024


def find_files(fs: FileSystem, folder: str, paths: Sequence[str]) -> list[str]:
    """The file of each path: as written, with slashes for backslashes, or by its last parts.

    A list says ``D:\\data\\img\\1.jpg`` or ``/home/me/data/img/1.jpg``, and ``img/1.jpg`` lies
    beside it: all its paths then lose the same number of first parts. Where nothing is found, the
    paths stay as they are.

    Args:
        fs: where they lie.
        folder: that of the list.
        paths: as the list writes them: relative to ``folder``, absolute, or ``s3://``.
    """
    tried = list(dict.fromkeys(paths))[:_TRIES]
    best: int | None = None
    most = 0
    for how in _ways(tried):
        files = [_file(path, folder, how) for path in tried]
        infos = fs.get_file_info([file for file in files if can_be_file(file)])
        count = sum(info.type == FileType.File for info in infos)
        # Strictly more: among equals the way that changes least wins.
        if count > most:
            best, most = how, count
    return [_file(path, folder, best) for path in paths]


def can_be_file(path: str) -> bool:
    """Whether its names are short enough for a filesystem, which fails at others."""
    longest = max(len(os.fsencode(part)) for part in path.split("/"))
    return longest <= _LONGEST_NAME and len(os.fsencode(path)) < _LONGEST_PATH


def _ways(paths: Sequence[str]) -> Iterator[int | None]:
    """How paths may be meant: as written, or without so many of their first parts."""
    yield None
    yield from range(max((len(_parts(path)) for path in paths), default=0))


def _file(path: str, folder: str, how: int | None) -> str:
    if path.startswith("s3://"):
        return path.removeprefix("s3://")
    if how is not None:
        parts = _parts(path)
        # The file's own name is always kept.
        return "/".join([folder, *parts[min(how, len(parts) - 1) :]])
    return path if path.startswith("/") else f"{folder}/{path}"


def _parts(path: str) -> list[str]:
    """The parts of a path, without a drive and without what names no folder."""
    # "C:\\" begins with a drive; a colon elsewhere belongs to a name.
    parts = re.sub(r"^[A-Za-z]:(?=[\\/])", "", path).replace("\\", "/").split("/")
    return [part for part in parts if part not in ("", ".")] or [path]
