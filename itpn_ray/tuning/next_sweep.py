"""What the next sweep should try, read off where the good trials of this one lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from itpn_ray.formatting import label
from itpn_ray.metrics import Metric
from itpn_ray.tuning.answer import best_rows
from itpn_ray.tuning.space import Dimension

Rows = Sequence[Mapping[str, Any]]
FEWEST = 6
"""Trials below which the places of the best ones are chance."""
EDGE = 0.1
"""Fraction of a range within which its end counts as reached."""
NARROW = 0.5
"""Fraction of a range that the best third must leave free for a narrower one to be named."""


def next_sweep(rows: Rows, dimensions: Sequence[Dimension], metric: Metric) -> list[str]:
    """Suggestions, one for each setting whose good values lie in a part of its range.

    Args:
        rows: of all trials that have an evaluation.
        dimensions: of the space, those that speed does not depend on: values that are fast and less
            accurate belong to the trade-off that a sweep is for.
        metric: the headline metric.
    """
    names = {str(row["trial"]) for row in rows}
    if len(names) < FEWEST:
        return [f"more trials: the places of {len(names)} say little (--extend {2 * FEWEST})"]
    best = best_rows(rows, metric, max(2, len(rows) // 3))
    told = (_suggestion(one, [row[one.name] for row in best]) for one in dimensions)
    return [text for text in told if text]


def _suggestion(one: Dimension, found: Sequence[Any]) -> str:
    """What the values of the best third say of one setting; empty: nothing."""
    if one.kind == "choice":
        return _choices(one, found)
    low, high = (_place(one, value) for value in (min(found), max(found)))
    name = label(one.name)
    # found begins with the value of the best row.
    if _place(one, found[0]) > 1 - EDGE:
        return f"{name} above {one.ends[1]:g}: the best trial lies at the upper end"
    if _place(one, found[0]) < EDGE:
        return f"{name} below {one.ends[0]:g}: the best trial lies at the lower end"
    if min(found) == max(found):
        return f"{name} fixed at {min(found):g}, which all of the best third have"
    if high - low <= NARROW:
        option = f"--space.{one.path.replace('_', '-')}"
        ends = " ".join(_ends(one, min(found), max(found)))
        return f"a narrower {name}, where the best third lies: {option} {one.kind} {ends}"
    return ""


def _ends(one: Dimension, low: float, high: float) -> tuple[str, str]:
    """A range as it is written on the command line, short where that keeps it one."""
    if one.whole:
        return str(low), str(high)
    short = f"{low:.3g}", f"{high:.3g}"
    first, last = one.ends
    # Three digits may make two ends one, or lie beyond the range that was searched.
    kept = first <= float(short[0]) < float(short[1]) <= last
    return short if kept else (repr(low), repr(high))


def _choices(one: Dimension, found: Sequence[Any]) -> str:
    """The choices that the best third still has, where they are fewer."""
    kept = [value for value in one.values if value in found]
    if len(kept) == len(one.values):
        return ""
    left = ", ".join(str(value) for value in one.values if value not in kept)
    return f"{label(one.name)} without {left}, which none of the best third has"


def _place(one: Dimension, value: float) -> float:
    """Where a value lies in its range, 0 to 1, as the search draws from it."""
    low, high = one.ends
    if one.kind == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)
