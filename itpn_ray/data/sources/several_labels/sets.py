"""Images with several labels each: from lists of labels to numbers, and into a listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data.sources.label_values import Label
from itpn_ray.data.sources.labels import label_numbers
from itpn_ray.errors import DataError

KIND = "multilabel"
Sets = Sequence[NDArray[np.int32]]
"""The classes of each image, ascending."""


def label_sets(
    found: Sequence[Sequence[Label]], names: Sequence[str], uri: str, places: Sequence[str] = ()
) -> tuple[tuple[str, ...], Sets]:
    """Class names, and the classes that each image shows, each once.

    Args:
        found: the labels of each image, maybe none.
        names: class names in the order of the labels; empty: those that occur, sorted. Numbers are
            understood as those of single labels (`label_numbers`).
        uri: the source, for the error.
        places: where each image's labels stand, for the error; may be empty.

    Raises:
        DataError: no image has a label, or one is not among the names.
    """
    lengths = [len(labels) for labels in found]
    if not sum(lengths):
        cause = "gives no image a label"
        raise DataError("prepare.source", uri, cause, "Pass --unlabelled to prepare them so")
    owners = [row for row, length in enumerate(lengths) for _ in range(length)]
    where = [places[row] for row in owners] if places else ()
    classes, numbers = label_numbers(list(chain.from_iterable(found)), names, uri, where)
    return classes, [np.unique(part) for part in np.split(numbers, np.cumsum(lengths)[:-1])]


def with_label_sets(table: pa.Table, sets: Sets) -> pa.Table:
    """A listing with the column ``labels``."""
    column = pa.array([labels.tolist() for labels in sets], pa.list_(pa.int32()))
    return table.append_column("labels", column)


def label_set_splits(splits: Mapping[str, pa.Table], sets: Sets) -> dict[str, pa.Table]:
    """Listings with the column ``labels``.

    Args:
        splits: listings.
        sets: of the rows of all of them, one after another.
    """
    ends = np.cumsum([table.num_rows for table in splits.values()])
    starts = [0, *ends[:-1].tolist()]
    return {
        split: with_label_sets(table, sets[start:end])
        for (split, table), start, end in zip(splits.items(), starts, ends.tolist(), strict=True)
    }


def without_labels_note(sets: Sets) -> tuple[str, ...]:
    """How many images show none of the classes, in a sentence, where any does."""
    count = sum(not len(labels) for labels in sets)
    return (
        (f"{count:,} of {len(sets):,} images have no label: they show no class",) if count else ()
    )
