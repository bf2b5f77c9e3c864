"""Finds the files in tars without unpacking them, so that they can be read by byte range."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

from pyarrow.fs import FileSystem, LocalFileSystem

from itpn_ray.errors import DataError

_BUFFER = 8 << 20


@dataclass(frozen=True)
class Member:
    """A regular file in a tar: its name, place in bytes, and content where that was asked for."""

    name: str
    offset: int
    size: int
    content: bytes = b""


def members(fs: FileSystem, path: str, *, read: tuple[str, ...] = ()) -> Iterator[Member]:
    """Regular files in a tar, in its order; those of tars inside it too, with their places.

    A local tar is walked from header to header; a remote one is read through once, because a
    request a header would take longer.

    Args:
        fs: where the tar lies.
        path: the tar.
        read: suffixes of files whose content is wanted.

    Raises:
        DataError: it is no tar, is compressed, or is cut off.
    """
    local = isinstance(fs, LocalFileSystem)
    mode: Literal["r:", "r|"] = "r:" if local else "r|"
    try:
        with (
            fs.open_input_file(path)
            if local
            else fs.open_input_stream(path, buffer_size=_BUFFER) as stream,
            tarfile.open(fileobj=stream, mode=mode) as tar,
        ):
            yield from _walk(tar, mode, 0, "", read)
    except tarfile.TarError as error:
        raise DataError(
            path,
            None,
            f"is not a plain, whole tar: {error}",
            "Download it again, or unpack it if it is compressed",
        ) from error


def _walk(
    tar: tarfile.TarFile,
    mode: Literal["r:", "r|"],
    start: int,
    prefix: str,
    read: tuple[str, ...],
) -> Iterator[Member]:
    while (info := tar.next()) is not None:
        # tarfile keeps a kilobyte of each, a gigabyte for a million files.
        tar.members.clear()  # type: ignore[attr-defined]
        if not info.isfile():
            continue
        content: IO[bytes] | None = tar.extractfile(info)
        assert content is not None  # it is a regular file
        offset = start + info.offset_data
        if info.name.endswith(".tar"):
            with tarfile.open(fileobj=content, mode=mode) as inner:
                yield from _walk(inner, mode, offset, f"{prefix}{info.name}/", read)
        else:
            text = content.read() if info.name.endswith(read) else b""
            yield Member(prefix + info.name, offset, info.size, text)
