"""Pairs images with label files of the same name: beside them, or in a folder beside theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from posixpath import splitext
from typing import TypeVar

from pyarrow.fs import FileSystem

from itpn_ray.data.sources.annotated.near import ANNOTATION_FOLDERS, IMAGE_FOLDERS
from itpn_ray.data.sources.base import why_not
from itpn_ray.data.sources.walk import Entry

_PASSED_OVER = frozenset((*IMAGE_FOLDERS, *ANNOTATION_FOLDERS))
_CHUNK, _READERS = 256, 16
_LARGEST = 64 << 20

T = TypeVar("T")
Skipped = list[tuple[str, str]]


def pair_key(path: str) -> tuple[str, ...]:
    """What an image's path and that of its labels have in common.

    ``images/train/a.jpg`` and ``labels/train/a.txt``, ``JPEGImages/a.jpg`` and
    ``Annotations/a.xml`` have the same, and so have files side by side.
    """
    *folders, name = splitext(path)[0].split("/")
    lower = (folder.lower() for folder in folders)
    return (*(folder for folder in lower if folder not in _PASSED_OVER), name)


def is_image(entry: Entry) -> bool:
    """Whether a file is an image by its suffix: among labels lie files without one."""
    return not why_not(entry) and splitext(entry.name)[1] != ""


def pair(
    images: Sequence[str], labels: Iterable[str]
) -> tuple[list[tuple[str, str | None]], Skipped]:
    """Each image with its label file, if it has one; and (path, reason) of files left over."""
    waiting = {pair_key(path): path for path in labels}
    taken: set[tuple[str, ...]] = set()
    pairs: list[tuple[str, str | None]] = []
    skipped: Skipped = []
    for image in images:
        key = pair_key(image)
        if key in taken:
            skipped.append((image, "another image has the same labels"))
            continue
        label = waiting.pop(key, None)
        if label is not None:
            taken.add(key)
        pairs.append((image, label))
    skipped += [(path, "labels of an image that is not there") for path in waiting.values()]
    return pairs, skipped


def read_files(fs: FileSystem, paths: Iterable[str]) -> Iterator[bytes | OSError]:
    """The bytes of small files, in order; the error where one cannot be read."""
    yield from in_parallel(lambda path: _read(fs, path), paths)


def in_parallel(work: Callable[[str], T], paths: Iterable[str]) -> Iterator[T]:
    """What becomes of each path, in order; some are worked on at once, a chunk is held."""
    left = iter(paths)
    with ThreadPoolExecutor(_READERS) as pool:
        # A chunk at a time, for `map` takes in all that it is given at once.
        while chunk := list(islice(left, _CHUNK)):
            yield from pool.map(work, chunk)


def _read(fs: FileSystem, path: str) -> bytes | OSError:
    try:
        with fs.open_input_file(path) as stream:
            if stream.size() > _LARGEST:
                return OSError(f"a file of {stream.size() >> 20} MB")
            return stream.read()
    except OSError as error:
        return error
