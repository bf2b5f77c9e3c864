"""Parquet files with an image a row: bytes, or Hugging Face's image column ``{bytes, path}``.

Rows of a row group are read together, so the random order of train is one of row groups; data sets
published as Parquet are shuffled already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENODATA
from itertools import compress, groupby
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
    with_labels,
)
from itpn_ray.data.sources.labels import label_numbers
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.parquet_splits import (
    all_rows,
    row_splits,
    sort_parquet,
    split_column,
)
from itpn_ray.data.sources.splits import SPLITS, USUAL_NAMES, SplitNames, shown
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

IMAGE_COLUMNS = ("image", "img", "jpg", "picture", "bytes")
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
        splits: names of the splits.
    """

    uri: str
    unlabelled: bool = False
    classes: str = ""
    splits: SplitNames = USUAL_NAMES

    def listing(self) -> Listing:
        """See `Source.listing`; files sorted by path, rows in their order."""
        fs, root = filesystem(self.uri)
        found = files_below(fs, root)
        skipped = [(relpath(entry.path, root), entry.problem) for entry in found if entry.problem]
        files = [e.path for e in found if not e.problem and e.path.lower().endswith(".parquet")]
        if root.lower().endswith(".parquet"):
            files, root = [root], root.rpartition("/")[0]
        parts: dict[str, list[pa.Table]] = {}
        labels: dict[str, list[Any]] = {}
        names: tuple[str, ...] = ()
        group = 0
        if not files:
            raise DataError("prepare.source", self.uri, "holds no Parquet files", "Check the path")
        with self._open(fs, files[0]) as first:
            listed = [relpath(path, root) for path in files]
            split_of, left_out = sort_parquet(first, self.splits, listed, self.uri)
        skipped += left_out
        for name, split in split_of.items():
            path = f"{root}/{name}"
            with self._open(fs, path) as file:
                table, group = _rows(file, path, name, group)
                values: list[Any] = [None] * len(table)
                if not self.unlabelled:
                    column = _column(file, LABEL_COLUMNS, path, "--unlabelled takes none")
                    values = file.read(columns=[column]).column(column).to_pylist()
                    names = names or _names(file, column)
                told = split_column(file)
                by_row = row_splits(file, told, self.splits, path) if told else None
                for part, rows in (by_row or all_rows(file, split)).items():
                    parts.setdefault(part, []).append(table.filter(rows))
                    labels.setdefault(part, []).extend(compress(values, rows))
        splits = {split: pa.concat_tables(parts[split]) for split in SPLITS if split in parts}
        labels = {} if self.unlabelled else labels
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
            origins={split: _origin(split_of, split) for split in splits},
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


def _origin(split_of: dict[str, str], split: str) -> str:
    named = [name for name, of in split_of.items() if of == split]
    return shown(named, 4) if named else f"rows of {split} in {shown(list(split_of), 4)}"


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
