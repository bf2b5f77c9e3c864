"""How evenly the classes of a data set occur, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itpn_ray.data.store.manifest import Manifest
from itpn_ray.formatting import number_of


def balance(classes: Sequence[str], counts: Sequence[int]) -> str:
    """The rarest and the commonest class, the median, and classes that do not occur."""
    # Stable: of equal counts the first class is named.
    order = np.argsort(counts, kind="stable")
    low, high = int(order[0]), int(order[-1])
    empty = list(counts).count(0)
    there = [count for count in counts if count]
    # Classes without an image are left out: their ratio would be infinite.
    uneven = f"; {max(there) / min(there):.0f} to 1" if there and max(there) > min(there) else ""
    share = counts[high] / max(sum(counts), 1)
    return (
        f"a class has {counts[low]} ({classes[low]}) to {counts[high]} ({classes[high]}), "
        f"median {int(np.median(counts))}{uneven}; the largest is {share:.1%}"
        + (f"; without any: {number_of(empty, 'class', 'classes')}" if empty else "")
    )


def untaught(manifest: Manifest) -> str:
    """Classes that other splits show and the training split does not, in words; empty: none."""
    splits = dict(manifest.splits)
    train = splits.pop("train", None)
    if train is None or not manifest.classes:
        return ""
    names = [
        name
        for label, name in enumerate(manifest.classes)
        if not train.class_counts[label]
        and any(split.class_counts[label] for split in splits.values())
    ]
    if not names:
        return ""
    return (
        f"{len(names):,} of {len(manifest.classes):,} classes are in other splits "
        f"and not in train, such as {names[0]}"
    )
