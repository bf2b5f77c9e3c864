"""From labels as sources write them, words or numbers, to class names and positions among them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data.sources.base import check_classes, with_labels
from itpn_ray.data.sources.label_values import Label
from itpn_ray.errors import DataError

_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")


def label_numbers(
    found: Sequence[Label], names: Sequence[str], uri: str, places: Sequence[str] = ()
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Class names and the label of each row.

    With ``names``, numbers are positions among them, from 0 (or from 1, where the largest says so).
    Without, every word or number that is found is a class, in sorted order; numbers that are not
    found make no classes.

    Args:
        found: a label for each row.
        names: class names in the order of the labels; may be empty.
        uri: the source, for the error.
        places: where each label stands ("line 7"), for the error; may be empty.

    Raises:
        DataError: a label is not among the names, or a number is negative.
    """
    words = [str(label) for label in found]
    numbers = _numbers(found)
    # Names win over numbers: a class may be called "3".
    if names and set(words) <= set(names):
        numbers = None
    if numbers is None:
        classes = tuple(names) or tuple(sorted(set(words)))
        position = {name: at for at, name in enumerate(classes)}
        labels = [position.get(word, -1) for word in words]
    elif names:
        classes = tuple(names)
        # MATLAB's lists, as ImageNet's and Stanford's, count from 1.
        first = int(min(numbers) >= 1 and max(numbers) == len(classes))
        labels = [number - first for number in numbers]
    else:
        distinct = sorted(set(numbers))
        classes = tuple(map(str, distinct))
        position_of = {number: at for at, number in enumerate(distinct)}
        labels = [position_of[number] if number >= 0 else -1 for number in numbers]
    for row, label in enumerate(labels):
        if not 0 <= label < len(classes):
            raise _unknown(words[row], classes, places[row] if places else "", uri, bool(names))
    return classes, np.array(labels, dtype=np.int32)


def label_splits(
    splits: Mapping[str, pa.Table], labels: Sequence[Label], names: Sequence[str], uri: str
) -> tuple[tuple[str, ...], dict[str, pa.Table]]:
    """Class names, and the listings with their labels.

    Args:
        splits: listings.
        labels: of the rows of all listings, one after another.
        names: see `label_numbers`.
        uri: the source, for the error.

    Raises:
        DataError: see `label_numbers`; or there are fewer than two classes.
    """
    classes, numbers = label_numbers(labels, names, uri)
    check_classes(classes, uri)
    ends = np.cumsum([table.num_rows for table in splits.values()])
    parts = np.split(numbers, ends[:-1])
    tables = zip(splits.items(), parts, strict=True)
    return classes, {split: with_labels(table, part) for (split, table), part in tables}


def without_empty(
    classes: tuple[str, ...], splits: Mapping[str, pa.Table]
) -> tuple[tuple[str, ...], dict[str, pa.Table], list[str]]:
    """Classes of which there are images, listings with labels among them, and the other classes.

    Args:
        classes: names in the order of the labels.
        splits: listings.
    """
    labels = {split: table.column("label").to_numpy() for split, table in splits.items()}
    # The empty array: np.concatenate refuses no arrays at all.
    there = np.unique(np.concatenate([*labels.values(), np.empty(0, np.int32)]))
    empty = [name for label, name in enumerate(classes) if label not in there]
    if not empty or not len(there):
        return classes, dict(splits), []
    renumbered = {
        # Each label's place among those that are left.
        split: with_labels(table, np.searchsorted(there, labels[split]).astype(np.int32))
        for split, table in splits.items()
    }
    return tuple(classes[label] for label in there.tolist()), renumbered, empty


def _numbers(found: Sequence[Label]) -> list[int] | None:
    """The labels as whole numbers, where all are ("1.0" is what tables make of 1)."""
    if all(
        not isinstance(label, bool) and _WHOLE.fullmatch(str(label)) is not None for label in found
    ):
        return [int(str(label).partition(".")[0]) for label in found]
    return None


def _unknown(label: str, classes: Sequence[str], place: str, uri: str, named: bool) -> DataError:
    subject = f"{uri}, {place}" if place else uri
    if named:
        cause = f"the label {label!r} is none of the {len(classes)} classes"
        return DataError(subject, None, cause, "Correct the labels or the list of classes")
    cause = f"the label {label!r} is a negative number"
    return DataError(subject, None, cause, "Number classes from 0, or name them")
