"""A list of images in a text file: their paths, and labels and splits where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import basename, dirname

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.fs import FileType

from itpn_ray.data.sources.base import Listing, Rows, Source, check_classes, with_labels
from itpn_ray.data.sources.labels import label_numbers
from itpn_ray.data.sources.leftovers import LEFTOVER, is_leftover
from itpn_ray.data.sources.list_columns import find_columns, row_splits
from itpn_ray.data.sources.list_paths import can_be_file, find_files
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.splits import SPLITS, USUAL_NAMES, SplitNames
from itpn_ray.data.sources.tables import Table, read_table
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

# Files whose sizes are asked for together: lists of millions of names fit in memory this way.
_SIZES_AT_ONCE = 1024
# What tables hold in place of a missing label; -1 is usual for test images.
_NO_LABEL = ("", "-1", "-1.0", "nan", "null")


@dataclass(frozen=True)
class CsvList(Source):
    """Images named in a list; paths are relative to its folder, or absolute.

    Attributes:
        uri: the list.
        unlabelled: ignore the labels.
        classes: URI of a list of class names in the order of the labels; may be empty.
        splits: names of the splits.
    """

    uri: str
    unlabelled: bool = False
    classes: str = ""
    splits: SplitNames = USUAL_NAMES

    def listing(self) -> Listing:
        """See `Source.listing`; rows in the order of the list. Rows without a label are listed."""
        table = read_table(self.uri, blanks=True)
        columns = find_columns(table, self.splits, labelled=not self.unlabelled)
        splits, decided_by = row_splits(table, columns, self.splits)
        labels = None if columns.label is None else _labels(table, columns.label)
        paths = table.column(columns.path)
        reasons = [
            why_not_taken(row.line, paths[at], splits[at], None if labels is None else labels[at])
            for at, row in enumerate(table.rows)
        ]
        taken = np.array([not reason for reason in reasons])
        # With labels, `_labels` refuses this itself and says what to do.
        if labels is None and not taken.any():
            raise DataError(
                "prepare.source", self.uri, f"{paths[0]!r} is {reasons[0]}", "Check the list"
            )
        classes: tuple[str, ...] = ()
        numbers = np.full(len(paths), -1, dtype=np.int32)
        if labels is not None:
            classes, numbers[taken] = self._labels(table, labels, taken)
        at = np.flatnonzero(taken)
        rows = with_labels(list_rows(self.uri, [paths[row] for row in at]), numbers[at])
        found, origins = parts_of(rows, [splits[row] for row in at], decided_by)
        return Listing(
            kind="classification" if classes else "unlabelled",
            classes=classes,
            splits=found,
            origins=origins,
            skipped=tuple((path, why) for path, why in zip(paths, reasons, strict=True) if why),
            notes=_notes(table, columns.label, reasons),
        )

    def _labels(
        self, table: Table, labels: Sequence[str], taken: NDArray[np.bool_]
    ) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Class names, and the labels of the rows that are taken."""
        at = np.flatnonzero(taken).tolist()
        if not at:
            raise DataError(
                "prepare.source",
                self.uri,
                "gives no image a label",
                "Pass --unlabelled to prepare them without labels",
            )
        given = read_classes(self.classes) if self.classes else ()
        places = [f"line {table.rows[row].line}" for row in at]
        classes, numbers = label_numbers([labels[row] for row in at], given, self.uri, places)
        check_classes(classes, self.uri)
        return classes, numbers


def list_rows(uri: str, paths: Sequence[str]) -> pa.Table:
    """The listing of a list's images without labels; a missing file shows when it is read."""
    fs, list_path = filesystem(uri)
    found = find_files(fs, dirname(list_path), list(paths))
    rows = Rows()
    for start in range(0, len(paths), _SIZES_AT_ONCE):
        part = slice(start, start + _SIZES_AT_ONCE)
        infos = fs.get_file_info(found[part])
        for path, file, info in zip(paths[part], found[part], infos, strict=True):
            rows.add(path, file, size=info.size if info.type == FileType.File else 0)
    return rows.table()


def parts_of(
    rows: pa.Table, splits: Sequence[str | None], decided_by: str
) -> tuple[dict[str, pa.Table], dict[str, str]]:
    """The listing of each split, and where it is from, in words.

    Args:
        rows: of all images.
        splits: the split of each.
        decided_by: what told it; empty: nothing.
    """
    named = np.array([split or "" for split in splits])
    parts = {split: rows.filter(named == split) for split in SPLITS}
    found = {split: part for split, part in parts.items() if part.num_rows}
    origin = {
        split: f"rows of {split} by {decided_by}" if decided_by else "all rows" for split in found
    }
    return found, origin


def _labels(table: Table, column: int) -> list[str]:
    """The cells of the labels, each in one line."""
    # Lists of classes have one name a line, so a name must not break.
    return [cell.replace("\n", " ") for cell in table.column(column)]


def _notes(table: Table, label: int | None, reasons: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if label is not None and table.header:
        notes.append(f"labels are those of column {table.header[label]!r}")
    return (*notes, *left_out_note(reasons))


def left_out_note(reasons: Sequence[str]) -> tuple[str, ...]:
    """How many rows of a list are left out, in a sentence, where any is."""
    count = sum(map(bool, reasons))
    return (f"left out: {count:,} of {len(reasons):,} rows of the list",) if count else ()


def why_not_taken(line: int, path: str, split: str | None, label: str | None) -> str:
    """Why a row of the list is left out; empty if it is taken."""
    if not path:
        return f"left out: line {line} of the list names no file"
    if not can_be_file(path):
        return f"left out: no file can have the long name in line {line} of the list"
    if is_leftover(basename(path.replace("\\", "/"))):
        return LEFTOVER
    if split is None:
        return f"left out: line {line} of the list is in no split that --splits names"
    if label is not None and label.casefold() in _NO_LABEL:
        return f"left out: line {line} of the list gives it no label ({label!r})"
    return ""
