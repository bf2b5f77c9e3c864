"""Which columns of a list hold paths, labels and splits, and the split of each row."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import dirname

from itpn_ray.data.sources.splits import OPTION, SplitNames, split_of_name, splits_of_folders
from itpn_ray.data.sources.tables import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    Row,
    Table,
    is_image_name,
)
from itpn_ray.errors import DataError
from itpn_ray.formatting import show_names

_FLAGS = {
    **dict.fromkeys(("true", "1", "yes", "1.0"), True),
    **dict.fromkeys(("false", "0", "no", "0.0", ""), False),
}


@dataclass(frozen=True)
class Columns:
    """Numbers of columns; ``None`` where there is none.

    Attributes:
        path: of the images.
        label: of their classes.
        split: of the names of their splits.
        flags: of columns such as ``is_valid``, which are true in one split and false elsewhere.
    """

    path: int
    label: int | None
    split: int | None
    flags: tuple[int, ...]


def find_columns(table: Table, names: SplitNames, *, labelled: bool) -> Columns:
    """The columns of a list, by its header; by what they hold where that does not tell.

    Raises:
        DataError: it lists nothing, or has no column of paths or, though ``labelled``, of labels.
    """
    if not table.rows:
        raise DataError("prepare.source", table.uri, "lists no images", "Check the file")
    path = table.find(PATH_COLUMNS)
    if path is None:
        path = next((n for n, cell in enumerate(table.rows[0].cells) if is_image_name(cell)), None)
    if path is None:
        first = show_names([repr(cell) for cell in table.rows[0].cells])
        raise DataError(
            "prepare.source",
            table.uri,
            f"has no column 'path': it begins with {first}",
            "Begin it with a line 'path,label'",
        )
    label = table.find(LABEL_COLUMNS)
    flags = tuple(n for n, name in enumerate(table.header) if _flagged(name))
    others = [n for n in range(table.width) if n not in (path, label, *flags)]
    split = table.find(SPLIT_COLUMNS)
    if split is None:
        # A column without a known name, all of whose cells are names of splits, can be nothing
        # else.
        split = next((n for n in others if _all_name_splits(table, n, names)), None)
    others = [n for n in others if n != split]
    if label is None and labelled and others:
        label = _only_label(table, others)
    return Columns(path, label if labelled else None, split, flags)


def _only_label(table: Table, others: list[int]) -> int:
    # "a.jpg,cat": two columns without names leave no doubt.
    if not table.header and len(others) == 1:
        return others[0]
    seen = show_names(table.header) if table.header else f"{table.width} columns without names"
    raise DataError(
        "prepare.source",
        table.uri,
        f"has {seen}, of which none is called label, class, category or target",
        "Call the column of the classes 'label', or pass --unlabelled",
    )


def _all_name_splits(table: Table, column: int, names: SplitNames) -> bool:
    return all(names.of_name(cell) for cell in set(table.column(column)))


def _flagged(name: str) -> str | None:
    """The split that a column such as ``is_valid`` tells."""
    plain = name.casefold()
    return split_of_name(plain[2:]) if plain.startswith("is") else None


def row_splits(table: Table, columns: Columns, names: SplitNames) -> tuple[list[str | None], str]:
    """The split of each row, ``None`` where ``--splits`` leaves it out, and what decided it.

    Raises:
        DataError: a row has no split, unlike others.
    """
    if columns.split is not None:
        column = f"column {table.header[columns.split] if table.header else columns.split + 1!r}"
        return _by_cells(table, columns.split, names), column
    if columns.flags:
        flags = show_names([repr(table.header[column]) for column in columns.flags])
        return [_by_flags(table, row, columns.flags) for row in table.rows], f"column {flags}"
    return _by_folders(table, columns.path, names)


def _by_cells(table: Table, column: int, names: SplitNames) -> list[str | None]:
    cells = table.column(column)
    seen = list(dict.fromkeys(cells))
    names.check_used(seen, table.uri)
    # The column is there, but nobody filled it in.
    if seen == [""]:
        return ["train"] * len(cells)
    meant = {cell: names.of_name(cell) for cell in seen}
    for row, cell in zip(table.rows, cells, strict=True):
        if meant[cell] is None and not names.given:
            raise DataError(
                f"{table.uri}, line {row.line}",
                cell,
                f"is no split; the list has {show_names([repr(name) for name in seen])}",
                f"Name train, val or test, or say which is which with {OPTION}",
            )
    return [meant[cell] for cell in cells]


def _by_flags(table: Table, row: Row, columns: Sequence[int]) -> str:
    """The split whose flag is true; without one, train, or val where only train has a flag."""
    splits = [str(_flagged(table.header[column])) for column in columns]
    for column, split in zip(columns, splits, strict=True):
        flag = as_flag(row.cells[column])
        if flag is None:
            raise DataError(
                f"{table.uri}, line {row.line}",
                row.cells[column],
                f"is neither true nor false in column {table.header[column]!r}",
                "Correct it",
            )
        if flag:
            return split
    # is_train = 0 is said of validation images; is_valid = 0 of training images.
    return "val" if splits == ["train"] else "train"


def as_flag(cell: str) -> bool | None:
    """What a cell of truth values says; nothing counts as false. None: it is no truth value."""
    return _FLAGS.get(cell.casefold())


def _by_folders(table: Table, column: int, names: SplitNames) -> tuple[list[str | None], str]:
    """The splits that the folders of the images name, if they name more than one."""
    folders = [dirname(path.replace("\\", "/")) for path in table.column(column)]
    seen = list(dict.fromkeys(folders))
    # Folders above all images divide nothing: they may be called train on somebody's disk.
    above = len(_common(seen))
    if names.given:
        names.check_used(seen, table.uri)
        return [names.of_file(folder) for folder in folders], "--splits"
    found = splits_of_folders(folders, table.uri, below=lambda folder: folder[above:])
    return (list(found), "folders of the images") if found else (["train"] * len(folders), "")


def _common(folders: Sequence[str]) -> str:
    """The folder in which all of these lie."""
    # `commonpath` refuses absolute and relative paths together, and of one folder it is all.
    absolute = {folder.startswith("/") for folder in folders}
    return os.path.commonpath(folders) if len(absolute) == 1 and len(folders) > 1 else ""
