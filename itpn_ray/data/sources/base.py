"""What every reader of raw pictures gives: a listing for the driver, bytes for the workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from posixpath import splitext
from typing import Any

import pyarrow as pa

from itpn_ray.errors import DataError

LISTING_SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # shown to people: relative to the source
        ("file", pa.string()),  # path of the file in the source's filesystem
        ("offset", pa.int64()),  # first byte in the file, or row number; 0 for a whole file
        ("size", pa.int64()),  # bytes of the picture file
        ("label", pa.int32()),  # class, -1 where there is none
    ]
)
"""Columns that the listing of a split has at least; annotations come in further ones."""

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2"),
    *(".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".ppm", ".pgm"),
)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All pictures of a source.

    Attributes:
        kind: one of `itpn_ray.data.schema.KINDS`.
        classes: names, in the order of the labels.
        class_ids: the annotation files' own numbers of the classes, or empty.
        splits: name -> table with the columns of LISTING_SCHEMA, in a fixed order.
        origins: name -> where the split comes from, in words.
        skipped: (path, reason) of files that are not taken for pictures at all.
    """

    kind: str
    classes: tuple[str, ...]
    class_ids: tuple[int, ...] = ()
    splits: Mapping[str, pa.Table]
    origins: Mapping[str, str]
    skipped: tuple[tuple[str, str], ...] = ()


class Source(ABC):
    """A place with raw pictures. Travels to the workers, so it holds plain data only."""

    uri: str

    @abstractmethod
    def listing(self) -> Listing:
        """List all pictures, in an order that depends on the source alone.

        Raises:
            DataError: there is nothing to prepare, or the layout is not understood.
        """

    @abstractmethod
    def read(self, rows: pa.Table) -> Iterator[bytes | OSError]:
        """The bytes of each row of a listing, in order; the error where one cannot be read."""


def is_picture_name(name: str) -> bool:
    """Whether a file may be a picture by its name: a picture's suffix, or none."""
    suffix = splitext(name)[1].lower()
    return suffix in ("", *PICTURE_SUFFIXES)


def to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of a listing as a table."""
    return pa.Table.from_pylist(rows, LISTING_SCHEMA)


def check_classes(classes: tuple[str, ...], uri: str) -> None:
    """Refuse to prepare a single class for classification.

    Raises:
        DataError: there are fewer than two classes.
    """
    if len(classes) < 2:
        raise DataError(
            "source",
            uri,
            f"all pictures are of one class ({', '.join(classes)})",
            "Give a folder with at least two class folders, or pass --unlabelled to prepare "
            "pictures without labels",
        )
