"""What every reader of raw images gives: a listing for the driver, bytes for the workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import splitext
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data.annotations.class_masks import MaskValues
from itpn_ray.data.sources.reading import WHOLE_FILE, read_ranges
from itpn_ray.data.sources.walk import Entry
from itpn_ray.errors import DataError

LISTING_SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # shown to people: relative to the source
        ("file", pa.string()),  # path of the file in the source's filesystem
        ("offset", pa.int64()),  # first byte of the image in the file
        ("size", pa.int64()),  # bytes of the image, -1 for a whole file of unknown size
        ("label", pa.int32()),  # class, -1 where there is none
    ]
)
"""Columns that the listing of a split has at least."""

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2"),
    *(".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".ppm", ".pgm"),
)
# Files without a suffix that lie in data sets and are no images.
_DOCUMENTS = frozenset(
    {
        *("readme", "license", "licence", "copying", "copyright", "notice", "authors", "changelog"),
        *("citation", "version", "makefile", "md5sum", "md5sums", "sha1sums", "sha256sums"),
        *("checksum", "checksums", "_success", "manifest", "todo", "contributors", "dockerfile"),
    }
)

Say = Callable[[str], None]
"""Takes a sentence for people."""


def silent(text: str) -> None:
    """Says nothing."""


class Annotations(Protocol):
    """Objects of the images of a split, too many for the listing."""

    def shown(self, rows: pa.Table) -> NDArray[np.bool_]:
        """(rows,) whether each image of a listing has an object that can be used."""
        ...

    def join(
        self, rows: pa.Table, edges: Sequence[int], scratch: Path
    ) -> Iterator[tuple[pa.Table, list[tuple[str, str]]]]:
        """Cut the rows at the edges, and give each piece with the columns of the objects.

        Args:
            rows: the listing of the split, in the order of the shards.
            edges: first row of each piece, and the number of rows.
            scratch: a folder for temporary files.

        Yields:
            The piece, and (path, reason) of objects that cannot be used.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All images of a source.

    Attributes:
        kind: one of `itpn_ray.data.schema.KINDS`.
        classes: names, in the order of the labels.
        class_ids: the annotation files' own numbers of the classes, or empty.
        splits: name -> table with the columns of LISTING_SCHEMA, in a fixed order. A further column
            ``group`` (int) marks rows that are read together and must stay so.
        origins: name -> where the split comes from, in words.
        skipped: (path, reason) of files that are not taken for images at all.
        notes: what was guessed, in sentences for people.
        annotations: of the splits that have objects.
        masks: what the values of mask files mean, where images have masks; their listings then
            have the columns ``mask_path`` and ``mask_file`` too.
    """

    kind: str
    classes: tuple[str, ...]
    class_ids: tuple[int, ...] = ()
    splits: Mapping[str, pa.Table]
    origins: Mapping[str, str]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    annotations: Mapping[str, Annotations] = field(default_factory=dict)
    masks: MaskValues | None = None


class Source(ABC):
    """A place with raw images. Travels to the workers, so it holds plain data only."""

    uri: str

    @abstractmethod
    def listing(self) -> Listing:
        """List all images, in an order that depends on the source alone.

        Raises:
            DataError: there is nothing to prepare, or the layout is not understood.
        """

    def read(self, rows: pa.Table) -> Iterator[bytes | OSError]:
        """The bytes of each row of a listing, in order; the error where one cannot be read."""
        return read_ranges(self.uri, rows)


def why_not(entry: Entry) -> str:
    """Why a file is not taken for an image; empty if it may be one, by its name."""
    if entry.problem:
        return entry.problem
    suffix = splitext(entry.name)[1].lower()
    if not suffix and entry.name.lower() in _DOCUMENTS:
        return "not taken for an image: documents are called so"
    if suffix in ("", *IMAGE_SUFFIXES):
        return ""
    return "not taken for an image: its name has another suffix"


class Rows:
    """Gathers the rows of a listing, packed in Arrow: about 150 bytes an image."""

    # Python rows take several times the memory of Arrow's, so only this many are kept loose.
    _PACK = 16_384

    def __init__(self, schema: pa.Schema = LISTING_SCHEMA) -> None:
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._loose: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches) + len(self._loose)

    def add(
        self,
        path: str,
        file: str,
        *,
        offset: int = 0,
        size: int = WHOLE_FILE,
        label: int = -1,
        **further: int | str | None,
    ) -> None:
        """Add an image; see LISTING_SCHEMA. ``further`` are the schema's other columns."""
        self._loose.append(
            {
                "path": path,
                "file": file,
                "offset": offset,
                "size": size,
                "label": label,
                **further,
            }
        )
        if len(self._loose) == self._PACK:
            self._pack()

    def table(self) -> pa.Table:
        """All rows."""
        self._pack()
        return pa.Table.from_batches(self._batches, self._schema)

    def _pack(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._loose, self._schema))
        self._loose = []


def with_labels(table: pa.Table, labels: NDArray[np.int32]) -> pa.Table:
    """A listing with other labels."""
    at = table.schema.get_field_index("label")
    return table.set_column(at, "label", pa.array(labels, pa.int32()))


def check_classes(classes: Sequence[str], uri: str) -> None:
    """Refuse to prepare a single class for classification.

    Raises:
        DataError: there are fewer than two classes.
    """
    if len(classes) < 2:
        raise DataError(
            "prepare.source",
            uri,
            f"all images are of one class ({', '.join(classes)})",
            "Give images of at least two classes, or pass --unlabelled to prepare them "
            "without labels",
        )
