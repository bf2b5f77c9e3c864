"""Parquet files with an image a row: bytes, or Hugging Face's image column ``{bytes, path}``.

Rows of a row group are read together, so the random order of train is one of row groups; data sets
published as Parquet are shuffled already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from errno import ENODATA
from itertools import compress, groupby
from posixpath import relpath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, FileType

from itpn_ray.data.sources.base import (
    LISTING_SCHEMA,
    Listing,
    Source,
)
from itpn_ray.data.sources.label_values import Label
from itpn_ray.data.sources.labels import label_splits
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.parquet.columns import (
    check_images,
    class_names,
    column_labels,
    find_column,
)
from itpn_ray.data.sources.parquet.splits import (
    rows_by_split,
    sort_parquet,
)
from itpn_ray.data.sources.several_labels.parquet_columns import flagged_labels
from itpn_ray.data.sources.several_labels.sets import (
    KIND,
    label_set_splits,
    label_sets,
    without_labels_note,
)
from itpn_ray.data.sources.splits import SPLITS, USUAL_NAMES, SplitNames
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of, show_names
from itpn_ray.storage import filesystem

IMAGE_COLUMNS = ("image", "img", "jpg", "picture", "bytes")
LABEL_COLUMNS = ("label", "labels", "cls", "class", "fine_label", "target", "tags")
# Images of a row group that are in memory: a row group can hold a gigabyte of them.
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
        separator: what separates several labels in a column of text; empty: nothing. Of a column
            of lists each row has several labels anyway.
        columns: that of the labels, else found by its name; or those of the classes, with 0 or 1.
    """

    uri: str
    unlabelled: bool = False
    classes: str = ""
    splits: SplitNames = USUAL_NAMES
    separator: str = ""
    columns: tuple[str, ...] = ()

    def listing(self) -> Listing:
        """See `Source.listing`; files sorted by path, rows in their order."""
        fs, root, files, skipped = self._files()
        # The first file tells for all whether a column names the splits.
        with self._open(fs, f"{root}/{files[0]}") as first:
            split_of, left_out = sort_parquet(first, self.splits, files, self.uri)
        skipped += left_out
        parts: dict[str, list[pa.Table]] = {}
        labels: dict[str, list[Labels]] = {}
        names: tuple[str, ...] = self.columns if not self.separator else ()
        # Counted over all files: rows of two files must not form one group.
        group = 0
        for name, split in split_of.items():
            path = f"{root}/{name}"
            with self._open(fs, path) as file:
                check_images(file, find_column(file, IMAGE_COLUMNS, path, "Rename it"), path)
                table, group = _rows(file, path, name, group)
                if not table.num_rows:
                    skipped.append((name, "holds no rows"))
                    continue
                values, named = self._values(file, path, len(table))
                names = _same_names(names, named, path)
                for part, rows in rows_by_split(file, split, self.splits, path).items():
                    parts.setdefault(part, []).append(table.filter(rows))
                    labels.setdefault(part, []).extend(compress(values, rows))
        if not parts:
            cause = "holds no Parquet files with rows"
            raise DataError("prepare.source", self.uri, cause, "Check the path")
        splits = {split: pa.concat_tables(parts[split]) for split in SPLITS if split in parts}
        # Hugging Face publishes test splits with the label -1 throughout. Where only some rows have
        # none, it is refused below as it is in other splits.
        if not self.unlabelled and "test" in splits and set(labels["test"]) <= {-1, None}:
            reason = f"left out: {number_of(splits.pop('test').num_rows, 'image')} without labels"
            skipped.append(("test", reason))
        listing = Listing(
            kind="unlabelled",
            classes=(),
            splits=splits,
            origins={split: _origin(split_of, split) for split in splits},
            skipped=tuple(skipped),
        )
        if self.unlabelled:
            return listing
        return self._with_labels(listing, [one for split in splits for one in labels[split]], names)

    def _with_labels(
        self, listing: Listing, labels: list[Labels], names: tuple[str, ...]
    ) -> Listing:
        """The listing with the labels of all its rows, of which each has one or a list."""
        given = read_classes(self.classes) if self.classes else names
        every = self._labelled(labels)
        several = [label for label in every if isinstance(label, list)]
        if several:
            classes, sets = label_sets(several, given, self.uri)
            splits = label_set_splits(listing.splits, sets)
            notes = without_labels_note(sets)
            return replace(listing, kind=KIND, classes=classes, splits=splits, notes=notes)
        single = [label for label in every if not isinstance(label, list)]
        classes, splits = label_splits(listing.splits, single, given, self.uri)
        return replace(listing, kind="classification", classes=classes, splits=splits)

    def _values(
        self, file: pq.ParquetFile, path: str, rows: int
    ) -> tuple[list[Labels], tuple[str, ...]]:
        """The labels of a file's rows, and the names of the classes where its metadata list them.

        Raises:
            DataError: there is no column of labels, or it holds something else.
        """
        if self.unlabelled:
            return [None] * rows, ()
        if self.columns and not self.separator:
            flagged: list[Labels] = [[*row] for row in flagged_labels(file, self.columns, path)]
            return flagged, ()
        known = self.columns or LABEL_COLUMNS
        column = find_column(file, known, path, "--unlabelled takes none")
        values = column_labels(file, column, path)
        if self.separator:
            return [_separated(value, self.separator) for value in values], ()
        return values, class_names(file, column)

    def _files(self) -> tuple[FileSystem, str, list[str], list[tuple[str, str]]]:
        """Filesystem and folder; the Parquet files in it, and (path, reason) of others."""
        fs, root = filesystem(self.uri)
        if fs.get_file_info(root).type == FileType.File:
            folder, _, name = root.rpartition("/")
            return fs, folder, [name], []
        files, others = [], []
        for entry in files_below(fs, root):
            path = relpath(entry.path, root)
            if not entry.problem and path.lower().endswith(".parquet"):
                files.append(path)
            else:
                others.append((path, entry.problem or "not Parquet, by its name"))
        if not files:
            raise DataError("prepare.source", self.uri, "holds no Parquet files", "Check the path")
        return fs, root, files, others

    def _labelled(self, labels: list[Labels]) -> list[Label | list[Label]]:
        known = [label for label in labels if label is not None]
        kinds = {type(label) for label in known}
        cause = ""
        if len(known) < len(labels):
            cause = f"{len(labels) - len(known)} of {len(labels)} images have no label"
        elif len(kinds) > 1:
            cause = "some of its files have class numbers as labels, others class names or lists"
        if cause:
            hint = "Make them alike, or pass --unlabelled to prepare them without labels"
            raise DataError("prepare.source", self.uri, cause, hint)
        return known

    def read(self, rows: pa.Table) -> Iterator[bytes | OSError]:
        """See `Source.read`; each row group is read once for a run of its rows, a few at a time.

        Raises:
            DataError: a row group is damaged.
        """
        fs, _ = filesystem(self.uri)
        wanted = rows.select(["file", "row_group", "offset"]).to_pylist()
        # Rows of a group stay together in every plan, so each group is opened once.
        for (path, group), run in groupby(wanted, key=lambda row: (row["file"], row["row_group"])):
            numbers = [row["offset"] for row in run]
            with self._open(fs, path) as file:
                column = find_column(file, IMAGE_COLUMNS, path, "Rename it")
                yield from _images(file, column, group, numbers)

    @staticmethod
    @contextmanager
    def _open(fs: FileSystem, path: str) -> Iterator[pq.ParquetFile]:
        """An open file; whatever is wrong with it while it is read is told as one error.

        Raises:
            DataError: it is missing, damaged, or cut off.
        """
        try:
            # Mapped, a file that is cut off meanwhile would end the process.
            with pq.ParquetFile(path, filesystem=fs, memory_map=False) as file:
                yield file
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            cause = str(error) or type(error).__name__
            raise DataError(
                path, None, f"is not a whole Parquet file: {cause}", "Download it again"
            ) from error


Labels = Label | list[Label] | None
"""Of a row: a label, a list of them, or nothing where it is missing."""


def _separated(value: Labels, separator: str) -> list[Label] | None:
    """The labels in a cell of text."""
    parts = str(value).split(separator) if value is not None else []
    return [part.strip() for part in parts if part.strip()]


def _origin(split_of: dict[str, str], split: str) -> str:
    named = [name for name, of in split_of.items() if of == split]
    return show_names(named, 4) if named else f"rows of {split} in {show_names(list(split_of), 4)}"


def _same_names(before: tuple[str, ...], now: tuple[str, ...], path: str) -> tuple[str, ...]:
    """The names of the classes, which all files that have some must list alike."""
    if before and now and before != now:
        raise DataError(
            path,
            None,
            f"its metadata list other classes than the files before: {_listed(now)}, not "
            f"{_listed(before)}",
            "Give the names of the classes with --classes",
        )
    return before or now


def _listed(names: Sequence[str]) -> str:
    return f"{number_of(len(names), 'class', 'classes')} ({show_names(names)})"


def _rows(file: pq.ParquetFile, path: str, name: str, group: int) -> tuple[pa.Table, int]:
    """Listing of one file, without labels; ``group`` numbers row groups over all files."""
    parts = []
    counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    # Damaged footers reach this far, and would allocate what they claim.
    if min(counts, default=0) < 0 or sum(counts) != file.metadata.num_rows:
        raise pa.ArrowInvalid(f"it counts {file.metadata.num_rows} rows, its row groups {counts}")
    for number, count in enumerate(counts):
        # The size of one image is not in the metadata; shards are only cut by it.
        size = file.metadata.row_group(number).total_byte_size // max(count, 1)
        columns = {
            "path": [f"{name}#{number}.{row}" for row in range(count)],
            "file": [path] * count,
            "offset": np.arange(count),
            "size": np.full(count, size, dtype=np.int64),
            "label": np.full(count, -1, dtype=np.int32),
            "row_group": np.full(count, number, dtype=np.int32),
            "group": np.full(count, group, dtype=np.int32),
        }
        parts.append(pa.table(columns, schema=_SCHEMA))
        group += 1
    # The empty table: concat_tables refuses none at all.
    return pa.concat_tables([_SCHEMA.empty_table(), *parts]), group


_SCHEMA = pa.schema([*LISTING_SCHEMA, ("row_group", pa.int32()), ("group", pa.int32())])


def _images(
    file: pq.ParquetFile, column: str, group: int, numbers: list[int]
) -> Iterator[bytes | OSError]:
    """Images of some rows of a row group, in ascending order of the rows."""
    # -1 is before every row: nothing waits any more.
    start, waiting = 0, iter([*numbers, -1])
    number = next(waiting)
    for batch in file.iter_batches(_BATCH, row_groups=[group], columns=[column]):
        while start <= number < start + batch.num_rows:
            yield _image(batch.column(0)[number - start].as_py())
            number = next(waiting)
        start += batch.num_rows
    # The metadata promised more rows than there are.
    if number >= 0:
        raise pa.ArrowInvalid(f"row group {group} ends at row {start}, before row {number}")


def _image(value: Any) -> bytes | OSError:
    """The bytes in a cell, which `check_images` has found to hold bytes or a struct of them."""
    path = None
    if isinstance(value, dict):
        value, path = value["bytes"], value.get("path")
    if value is None:
        what = f"only the path {path}, not the image" if path else "no image in it"
        return OSError(ENODATA, f"the row has {what}")
    assert isinstance(value, bytes)
    return value
