"""Columns of a Parquet file that are classes, each with 0 or 1 in every row."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.parquet as pq

from itpn_ray.data.sources.list_columns import as_flag
from itpn_ray.data.sources.parquet.columns import find_column
from itpn_ray.errors import DataError


def flagged_labels(file: pq.ParquetFile, columns: Sequence[str], path: str) -> list[list[str]]:
    """The columns in which each row has 1, by their names.

    Raises:
        DataError: a column is not there, or a value is neither 0 nor 1.
        pyarrow.ArrowException: the file is damaged.
    """
    flags = [_flags(file, column, path) for column in columns]
    return [
        [name for name, flag in zip(columns, row, strict=True) if flag]
        for row in zip(*flags, strict=True)
    ]


def _flags(file: pq.ParquetFile, column: str, path: str) -> list[bool]:
    """One column as truth values."""
    find_column(file, (column,), path, "Name others with --label-columns")
    found = file.read(columns=[column]).column(column)
    found.validate(full=True)  # offsets of a damaged file may lead beyond its buffers
    flags = []
    for row, value in enumerate(found.to_pylist()):
        flag = None if value is None else as_flag(str(value))
        if flag is None:
            raise DataError(
                f"{path} row {row}",
                value,
                f"is neither 0 nor 1 in column {column!r}",
                "Correct it, or decide what it stands for",
            )
        flags.append(flag)
    return flags
