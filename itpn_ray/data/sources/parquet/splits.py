"""The splits of Parquet files: by a column that tells the split of each row, or by their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from itpn_ray.data.sources.splits import SPLITS, SplitNames, unclear
from itpn_ray.data.sources.tables import SPLIT_COLUMNS


def split_column(file: pq.ParquetFile) -> str | None:
    """The column that tells the split of each row, if there is one."""
    columns = {name.casefold(): name for name in file.schema_arrow.names}
    return next((columns[name] for name in SPLIT_COLUMNS if name in columns), None)


def rows_by_split(
    file: pq.ParquetFile, split: str, names: SplitNames, path: str
) -> dict[str, NDArray[np.bool_]]:
    """Which rows of a file are of which split; in none are those that ``--splits`` leaves out.

    Args:
        file: the file.
        split: of all rows, where no column tells it.
        names: the names of the splits.
        path: of the file, for the error.

    Raises:
        DataError: a row's cell names no split.
    """
    column = split_column(file)
    if column is None:
        return {split: np.ones(file.metadata.num_rows, dtype=bool)}
    cells = [str(cell) for cell in file.read(columns=[column]).column(0).to_pylist()]
    meant = {cell: names.of_name(cell) for cell in dict.fromkeys(cells)}
    unknown = [cell for cell, split in meant.items() if split is None]
    if unknown and not names.given:
        cause = f"column {column!r} has {unknown[0]!r}, which is no split"
        raise unclear(path, list(meant), cause)
    found = np.array([meant[cell] or "" for cell in cells])
    return {split: found == split for split in SPLITS if (found == split).any()}


def sort_parquet(
    first: pq.ParquetFile, names: SplitNames, files: Sequence[str], uri: str
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The split of each file by its name, and (path, reason) of those left out.

    Where rows tell their splits, files are not asked.

    Raises:
        DataError: some names tell a split and others do not.
    """
    if split_column(first) is not None:
        return dict.fromkeys(files, "train"), []
    sorted_files, left_out = names.sort_files(files, uri)
    return {name: split for split, part in sorted_files.items() for name in part}, left_out
