"""Tables in text files: any usual delimiter, quoted fields, a header or none."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from posixpath import splitext

from itpn_ray.data.sources.base import IMAGE_SUFFIXES
from itpn_ray.data.sources.text import read_text
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of

# Names of columns as `_plain` writes them, the preferred first.
PATH_COLUMNS = (
    *("path", "filepath", "imagepath", "imgpath", "picturepath", "file", "filename"),
    *("imagefile", "imagefilename", "imagename", "imgname", "image", "img", "picture", "photo"),
    *("imageid", "fname", "fn"),
)
LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "classname", "category", "categories"),
    *("categoryname", "target", "labelname", "classlabel", "cls", "groundtruth", "y"),
    *("classid", "labelid", "categoryid", "classindex", "predictionstring", "tags", "tag"),
)
SPLIT_COLUMNS = ("split", "splits", "splitname", "set", "subset", "partition", "usage", "phase")


@dataclass(frozen=True)
class Row:
    """A row: the number of its (last) line in the file, and its cells, stripped."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        uri: its file.
        header: names of the columns as they are written; empty where there are none.
        rows: all with the same number of cells.
    """

    uri: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.rows[0].cells) if self.rows else len(self.header)

    def find(self, names: Sequence[str]) -> int | None:
        """The column with the first of these names, in any case and wording of it."""
        header = [_plain(name) for name in self.header]
        return next((header.index(name) for name in names if name in header), None)

    def column(self, number: int) -> list[str]:
        """The cells of a column."""
        return [row.cells[number] for row in self.rows]


def read_table(uri: str, *, blanks: bool = False) -> Table:
    """Read a table; its delimiter is the one that its first line has most of.

    Args:
        uri: the file.
        blanks: without any other delimiter, the first blank of a line ends its first field, unless
            the first line is one word or the name of an image with blanks in it.

    Raises:
        DataError: it cannot be read, a quote is not closed, or a line has too few or many fields.
    """
    text, skipped = _without_hint(read_text(uri))
    delimiter = _delimiter(text)
    if delimiter is None and blanks:
        rows = _by_blanks(text)
    else:
        rows = list(_rows(text, delimiter or ",", skipped, uri))
    header: tuple[str, ...] = ()
    # A header is known by the column of the paths; no image file is called "path".
    if rows and any(_plain(cell) in PATH_COLUMNS for cell in rows[0].cells):
        header, rows = tuple(cell.replace("\n", " ") for cell in rows[0].cells), rows[1:]
    width = len(header) or max((len(row.cells) for row in rows), default=0)
    return Table(uri, header, tuple(_filled(row, width, uri) for row in rows))


def is_image_name(cell: str) -> bool:
    """Whether a cell is the name of an image file."""
    return splitext(cell)[1].lower() in IMAGE_SUFFIXES


def _without_hint(text: str) -> tuple[str, int]:
    """The text without the line in which a spreadsheet names its delimiter, and lines taken off."""
    first, _, rest = text.partition("\n")
    return (rest, 1) if re.fullmatch(r'"?sep=.?"?', first.strip()) else (text, 0)


def _delimiter(text: str) -> str | None:
    first = next((line for line in text.split("\n") if line.strip()), "")
    # A mark inside of quotes delimits nothing.
    bare = re.sub(r'"[^"]*"', "", first)
    counts = {mark: bare.count(mark) for mark in ",;\t|"}
    # `max` takes the first of equals: the comma.
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else None


def _rows(text: str, delimiter: str, skipped: int, uri: str) -> Iterator[Row]:
    # strict: an open quote is an error, not the rest of the file in one cell.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    try:
        for cells in reader:
            stripped = tuple(cell.strip() for cell in cells)
            if any(stripped):
                yield Row(reader.line_num + skipped, stripped)
    except csv.Error as error:
        raise DataError(
            f"{uri}, line {reader.line_num + skipped}",
            None,
            f"cannot be read: {error}",
            "Correct it",
        ) from error


def _by_blanks(text: str) -> list[Row]:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line]
    first = lines[0][1] if lines else ""
    # "my cat.jpg" is one name, "cat.jpg 3" a name and a label.
    whole = is_image_name(first) and not is_image_name(first.split()[0])
    fields = 1 if whole or len(first.split()) < 2 else 2
    return [Row(number, tuple(line.split(maxsplit=fields - 1))) for number, line in lines]


def _filled(row: Row, width: int, uri: str) -> Row:
    """The row without empty fields after the last column."""
    # Spreadsheets write empty fields behind the last column.
    cells, beyond = row.cells[:width], row.cells[width:]
    if len(cells) < width or any(beyond):
        raise DataError(
            f"{uri}, line {row.line}",
            None,
            f"has {number_of(len(row.cells), 'field')} where others have {width}",
            "Correct it",
        )
    return Row(row.line, cells)


def _plain(name: str) -> str:
    """A column's name without case, blanks and marks."""
    return re.sub(r"[\W_]+", "", name.casefold())
