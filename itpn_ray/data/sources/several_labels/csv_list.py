"""A list of images in a text file that have several labels each: separated, or a column a class."""

from __future__ import annotations

from dataclasses import dataclass

from itpn_ray.data.sources.base import Listing, Source
from itpn_ray.data.sources.csv_list import left_out_note, list_rows, parts_of, why_not_taken
from itpn_ray.data.sources.list_columns import as_flag, find_columns, row_splits
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.several_labels.sets import (
    KIND,
    label_sets,
    with_label_sets,
    without_labels_note,
)
from itpn_ray.data.sources.splits import USUAL_NAMES, SplitNames
from itpn_ray.data.sources.tables import LABEL_COLUMNS, Row, Table, read_table
from itpn_ray.errors import DataError
from itpn_ray.formatting import show_names


@dataclass(frozen=True)
class CsvLabelLists(Source):
    """Images named in a list with several labels each; an image with none shows no class.

    Attributes:
        uri: the list.
        separator: what separates the labels in their column; empty: there is a column a class.
        columns: that of the labels, else found by its name; or those of the classes.
        classes: URI of a list of class names in the order of the labels; may be empty.
        splits: names of the splits.
    """

    uri: str
    separator: str = ""
    columns: tuple[str, ...] = ()
    classes: str = ""
    splits: SplitNames = USUAL_NAMES

    def listing(self) -> Listing:
        """See `Source.listing`; rows in the order of the list."""
        table = read_table(self.uri, blanks=True)
        places = find_columns(table, self.splits, labelled=False)
        splits, decided_by = row_splits(table, places, self.splits)
        numbers = self._columns(table)
        paths = table.column(places.path)
        reasons = [
            why_not_taken(row.line, path, split, None)
            for row, path, split in zip(table.rows, paths, splits, strict=True)
        ]
        at = [row for row, reason in enumerate(reasons) if not reason]
        found = [self._labels(table, table.rows[row], numbers) for row in at]
        # Columns are classes in the order in which they are named, also one that no image shows.
        names = () if self.separator else tuple(table.header[number] for number in numbers)
        if self.classes:
            names = read_classes(self.classes)
        lines = [f"line {table.rows[row].line}" for row in at]
        classes, sets = label_sets(found, names, self.uri, lines)
        rows = with_label_sets(list_rows(self.uri, [paths[row] for row in at]), sets)
        parts, origins = parts_of(rows, [splits[row] for row in at], decided_by)
        columns = show_names([repr(table.header[number]) for number in numbers], 5)
        return Listing(
            kind=KIND,
            classes=classes,
            splits=parts,
            origins=origins,
            skipped=tuple((path, why) for path, why in zip(paths, reasons, strict=True) if why),
            notes=(
                f"labels are those of {columns}",
                *without_labels_note(sets),
                *left_out_note(reasons),
            ),
        )

    def _columns(self, table: Table) -> tuple[int, ...]:
        """Numbers of the columns of the labels.

        Raises:
            DataError: the list has no such column, or more than one.
        """
        if not self.columns:
            found = table.find(LABEL_COLUMNS)
            if found is None:
                raise self._no_column(table, "label, labels, class or tags")
            return (found,)
        for name in self.columns:
            if table.header.count(name) != 1:
                raise self._no_column(table, repr(name))
        return tuple(table.header.index(name) for name in self.columns)

    def _no_column(self, table: Table, name: str) -> DataError:
        seen = show_names([repr(one) for one in table.header]) if table.header else "no header"
        return DataError(
            "prepare.source",
            self.uri,
            f"has not one column called {name}, but {seen}",
            "Name columns of the list with --label-columns, and that of the images 'path'",
        )

    def _labels(self, table: Table, row: Row, columns: tuple[int, ...]) -> list[str]:
        """The labels of a row.

        Raises:
            DataError: a column of a class holds neither 0 nor 1.
        """
        if self.separator:
            cells = row.cells[columns[0]].replace("\n", " ").split(self.separator)
            return [cell.strip() for cell in cells if cell.strip()]
        for number in columns:
            if as_flag(row.cells[number]) is None:
                raise DataError(
                    f"{self.uri}, line {row.line}",
                    row.cells[number],
                    f"is neither 0 nor 1 in column {table.header[number]!r}",
                    "Correct it, or decide what it stands for",
                )
        return [table.header[number] for number in columns if as_flag(row.cells[number])]
