"""How evenly the classes of a data set occur, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
