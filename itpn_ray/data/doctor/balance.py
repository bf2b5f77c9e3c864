"""How evenly the classes of a data set occur, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def balance(classes: Sequence[str], counts: Sequence[int]) -> str:
    """The rarest and the commonest class, the median, and classes that do not occur."""
    order = np.argsort(counts, kind="stable")
    low, high = int(order[0]), int(order[-1])
    empty = list(counts).count(0)
    return (
        f"a class has {counts[low]} ({classes[low]}) to {counts[high]} ({classes[high]}), "
        f"median {int(np.median(counts))}; the largest is {counts[high] / max(sum(counts), 1):.1%}"
        + (f"; {empty} classes have none" if empty else "")
    )
