"""Parquet files with an image a row: bytes, or Hugging Face's image column ``{bytes, path}``.

Rows of a row group are read together, so the random order of train is one of row groups; data sets
published as Parquet are shuffled already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENODATA
from itertools import groupby
from posixpath import relpath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from itpn_ray.data.sources.base import (
    LISTING_SCHEMA,
    Listing,
    Source,
    check_classes,
    label_numbers,
    split_of,
    with_labels,
)
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

IMAGE_COLUMNS = ("image", "img", "jpg", "image", "bytes")
LABEL_COLUMNS = ("label", "labels", "cls", "class", "fine_label", "target")
_BATCH = 16


@dataclass(frozen=True)
class ParquetSource(Source):
    """A folder with Parquet files; their names say the split (``train-00000-of-00010.parquet``).

    Attributes:
        uri: the folder, or one file.
        unlabelled: ignore the labels.
        classes: URI of a list of class names in the order of the labels; empty: from the files'
            metadata, where Hugging Face wrote it.
    """

    uri: str
    unlabelled: bool = False
    classes: str = ""

    def listing(self) -> Listing:
        """See `Source.listing`; files sorted by path, rows in their order."""
        fs, root = filesystem(self.uri)
        found = [entry.path for entry in files_below(fs, root)]
        files = [path for path in found if path.endswith(".parquet")]
        if root.endswith(".parquet"):
            files, root = [root], root.rpartition("/")[0]
        parts: dict[str, list[pa.Table]] = {}
        labels: dict[str, list[Any]] = {}
        names: tuple[str, ...] = ()
        group = 0
        for path in files:
            split = split_of(relpath(path, root)) or "train"
            with self._open(fs, path) as file:
                table, group = _rows(file, path, relpath(path, root), group)
                parts.setdefault(split, []).append(table)
                if not self.unlabelled:
                    column = _column(file, LABEL_COLUMNS, path, "--unlabelled takes none")
                    labels.setdefault(split, []).extend(
                        file.read(columns=[column]).column(column).to_pylist()
                    )
                    names = names or _names(file, column)
        if not parts:
            raise DataError("prepare.source", self.uri, "holds no Parquet files", "Check the path")
        splits = {split: pa.concat_tables(tables) for split, tables in parts.items()}
        skipped: list[tuple[str, str]] = []
        if labels and set(labels.get("test", ())) & {-1, None}:
            reason = f"left out: its {splits.pop('test').num_rows} images have no labels"
            skipped.append(("test", reason))
        classes: tuple[str, ...] = ()
        if labels:
            given = read_classes(self.classes) if self.classes else names
            every = [label for split in splits for label in labels[split]]
            if None in every:
                raise DataError(
                    "prepare.source",
                    self.uri,
                    f"{every.count(None)} of {len(every)} images have no label",
                    "Pass --unlabelled to prepare them without labels",
                )
            classes, numbers = label_numbers(every, given, self.uri)
            check_classes(classes, self.uri)
            for split, table in splits.items():
                splits[split] = with_labels(table, numbers[: table.num_rows])
                numbers = numbers[table.num_rows :]
        return Listing(
            kind="classification" if classes else "unlabelled",
            classes=classes,
            splits=splits,
            origins={split: f"files named {split}" for split in splits},
            skipped=tuple(skipped),
        )

    def read(self, rows: pa.Table) -> Iterator[bytes | OSError]:
        """See `Source.read`; each row group is read once for a run of its rows, a few at a time."""
        fs, _ = filesystem(self.uri)
        wanted = rows.select(["file", "row_group", "offset"]).to_pylist()
        for (path, group), run in groupby(wanted, key=lambda row: (row["file"], row["row_group"])):
            numbers = [row["offset"] for row in run]
            with self._open(fs, path) as file:
                column = _column(file, IMAGE_COLUMNS, path, "Rename it")
                yield from _images(file, column, group, numbers)

    def _open(self, fs: FileSystem, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path, filesystem=fs, memory_map=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                path, None, f"is not a whole Parquet file: {error}", "Download it again"
            ) from error


def _rows(file: pq.ParquetFile, path: str, name: str, group: int) -> tuple[pa.Table, int]:
    """Listing of one file, without labels; ``group`` numbers row groups over all files."""
    parts = []
    for number in range(file.num_row_groups):
        meta = file.metadata.row_group(number)
        count = meta.num_rows
        sizes = np.full(count, meta.total_byte_size // max(count, 1), dtype=np.int64)
        columns = {
            "path": [f"{name}#{number}.{row}" for row in range(count)],
            "file": [path] * count,
            "offset": np.arange(count),
            "size": sizes,
            "label": np.full(count, -1, dtype=np.int32),
            "row_group": np.full(count, number, dtype=np.int32),
            "group": np.full(count, group, dtype=np.int32),
        }
        parts.append(pa.table(columns, schema=_SCHEMA))
        group += 1
    return pa.concat_tables([_SCHEMA.empty_table(), *parts]), group


_SCHEMA = pa.schema([*LISTING_SCHEMA, ("row_group", pa.int32()), ("group", pa.int32())])


def _images(
    file: pq.ParquetFile, column: str, group: int, numbers: list[int]
) -> Iterator[bytes | OSError]:
    """Images of some rows of a row group, in ascending order of the rows."""
    start, waiting = 0, iter([*numbers, -1])
    number = next(waiting)
    for batch in file.iter_batches(_BATCH, row_groups=[group], columns=[column]):
        while start <= number < start + batch.num_rows:
            value = batch.column(0)[number - start].as_py()
            data = value.get("bytes") if isinstance(value, dict) else value
            yield data if data is not None else OSError(ENODATA, "the row has no image in it")
            number = next(waiting)
        start += batch.num_rows


def _column(file: pq.ParquetFile, known: tuple[str, ...], path: str, hint: str) -> str:
    names = file.schema_arrow.names
    for name in known:
        if name in names:
            return name
    raise DataError(
        path,
        ", ".join(names),
        f"has no column named {', '.join(known[:-1])} or {known[-1]}",
        hint,
    )


def _names(file: pq.ParquetFile, column: str) -> tuple[str, ...]:
    """Class names that Hugging Face's library wrote into the file's metadata."""
    written = (file.schema_arrow.metadata or {}).get(b"huggingface")
    if written is None:
        return ()
    feature = json.loads(written).get("info", {}).get("features", {}).get(column, {})
    return tuple(feature.get("names", ()))
