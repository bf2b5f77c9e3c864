"""Finds the files in tars without unpacking them, so that they can be read by byte range."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from tarfile import EmptyHeaderError, EOFHeaderError  # type: ignore[attr-defined]
from typing import IO, Literal, Self

from pyarrow.fs import FileSystem, LocalFileSystem

from itpn_ray.errors import DataError

NOT_A_FILE = "a link or device in the tar, which is not followed"

_BUFFER = 8 << 20
_REST = 1 << 20
# Labels are short: a longer text is something else, or a damaged header.
_LONGEST_TEXT = 16 << 20


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
        name: with that of the tars around it; bytes that are no UTF-8 are written ``\\xe9``.
        offset: its first byte in the outermost tar.
        size: bytes.
        content: its bytes, where they were asked for.
        problem: why it cannot be read, if so.
    """

    name: str
    offset: int
    size: int
    content: bytes = b""
    problem: str = ""


def members(fs: FileSystem, path: str, *, read: tuple[str, ...] = ()) -> Iterator[Member]:
    """Files in a tar, in its order; those of tars inside it too, with their places.

    A local tar is walked from header to header; a remote one is read through once, because a
    request a header would take longer.

    Args:
        fs: where the tar lies.
        path: the tar.
        read: suffixes of files whose content is wanted.

    Raises:
        DataError: it is no tar, is compressed, damaged or cut off, or cannot be read.
    """
    local = isinstance(fs, LocalFileSystem)
    mode: Literal["r:", "r|"] = "r:" if local else "r|"
    try:
        with (
            fs.open_input_file(path)
            if local
            else fs.open_input_stream(path, buffer_size=_BUFFER) as stream,
            tarfile.open(fileobj=stream, mode=mode, tarinfo=_Header) as tar,
        ):
            yield from _walk(tar, mode, 0, "", read)
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error}", "Check it") from error
    # Numbers in damaged headers raise more than tarfile's own errors.
    except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(
            path,
            None,
            f"is not a plain, whole tar: {error}",
            "Download it again, or unpack it if it is compressed",
        ) from error


class _Header(tarfile.TarInfo):
    """A header that tells of damage, where tarfile takes a damaged one for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        """The next header.

        Raises:
            tarfile.ReadError: it is damaged, or something follows the end of the tar.
        """
        try:
            header = super().fromtarfile(tar)
        # No more bytes: tarfile itself tells an empty file from a tar without its closing zeros.
        except EmptyHeaderError:
            raise
        except EOFHeaderError:
            _check_rest(tar)
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tar.offset}") from error
        if header.size < 0:  # tarfile would go back, and round in circles
            raise tarfile.ReadError(f"negative size at byte {tar.offset}")
        return header


def _check_rest(tar: tarfile.TarFile) -> None:
    """Nothing but zeros may follow the end of a tar: it would be lost unseen."""
    assert tar.fileobj is not None
    while rest := tar.fileobj.read(_REST):
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"more follows its end at byte {tar.offset}, as of joined tars")


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
        if info.isdir():
            continue
        name = prefix + info.name.encode("utf-8", "surrogateescape").decode(
            "utf-8", "backslashreplace"
        )
        offset = start + info.offset_data
        if not info.isfile() or info.issparse():
            yield Member(name, offset, info.size, problem=NOT_A_FILE)
            continue
        content: IO[bytes] | None = tar.extractfile(info)
        assert content is not None  # it is a regular file
        if info.name.endswith(".tar"):
            with tarfile.open(fileobj=content, mode=mode, tarinfo=_Header) as inner:
                yield from _walk(inner, mode, offset, f"{name}/", read)
            continue
        wanted = info.name.endswith(read)
        if wanted and info.size > _LONGEST_TEXT:
            raise tarfile.ReadError(f"{name} of {info.size} bytes is too long for a label")
        yield Member(name, offset, info.size, content.read() if wanted else b"")
