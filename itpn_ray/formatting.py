"""How numbers are written for people: fractions as per cent, times in the unit that fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from itpn_ray.metrics import find

Z = 1.959964
"""Quantile of the normal distribution for intervals of 95 %."""


def label(name: str) -> str:
    """A metric's name for people: ``top1`` -> ``top-1``, ``lr`` -> ``learning rate``."""
    return find(name).label


def is_fraction(name: str) -> bool:
    """Whether a metric of this name lies in [0, 1] and reads best as per cent."""
    return find(name).unit == "%"


def is_detail(name: str) -> bool:
    """Whether only a full list shows this metric."""
    return find(name).detail


def show_metric(name: str, value: float) -> str:
    """A metric as text: ``top1`` 0.8125 -> ``81.2 %``, ``loss`` 0.41234 -> ``0.4123``."""
    unit = find(name).unit
    if unit == "%" and 0 <= value <= 1:
        return f"{100 * value:.1f} %"
    # Three digits: a slow detector's 0.84 and 0.86 are not both 1.
    if unit == "images/s" and abs(value) < 10:
        return f"{value:.3g}"
    if unit == "setting":
        return f"{value:.4g}"
    if unit in ("count", "images/s") or (value == int(value) if abs(value) < 1e15 else False):
        return f"{value:,.0f}"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}"
    return f"{value:,.4g}" if abs(value) >= 1 else f"{value:.4f}"


def wilson(fraction: float, count: int) -> tuple[float, float]:
    """Wilson's interval of 95 % of a fraction (Wilson, 1927), which holds for few trials too.

    Args:
        fraction: of successes, in [0, 1].
        count: trials; with none the interval is all of [0, 1].

    Returns:
        Lowest and highest fraction.
    """
    if count <= 0:
        return 0.0, 1.0
    spread = Z * Z / count
    middle = (fraction + spread / 2) / (1 + spread)
    reach = Z * math.sqrt((fraction * (1 - fraction) + spread / 4) / count) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def show_interval(name: str, value: float, images: int) -> str:
    """The interval of a fraction of so many images: ``79.4 to 86.1 %``; empty of other metrics."""
    if not (find(name).counted and images and 0 <= value <= 1):
        return ""
    low, high = wilson(value, images)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def show_spread(row: Mapping[str, Any]) -> str:
    """Slowest and fastest of a row's timings: ``388 to 409, n = 7``; empty where there are none."""
    if "timings" not in row:
        return ""
    low, high = (show_metric("images_per_s", row[f"images_per_s_{end}"]) for end in ("low", "high"))
    return f"{low} to {high}, n = {row['timings']}"


def with_certainty(row: Mapping[str, Any], images: int = 0) -> dict[str, Any]:
    """A row of measured metrics for people, each followed by what tells how sure it is.

    Args:
        row: metrics; a speed's lowest, highest and number of timings become one entry.
        images: how many its accuracies were counted on; 0: unknown.
    """
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if name in ("images_per_s_low", "images_per_s_high", "timings"):
            continue
        shown[name] = value
        if name == "images_per_s" and (spread := show_spread(row)):
            shown["spread"] = spread
        elif isinstance(value, float) and (interval := show_interval(name, value, images)):
            shown[f"{label(name)}, 95 %"] = interval
    return shown


def show_duration(seconds: float) -> str:
    """A time span as text: 4.2 -> ``4.2 s``, 130 -> ``2 min 10 s``, 7500 -> ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def show_names(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence, and how many more there are: ``cat, dog and 3 more``."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def number_of(count: float, one: str, many: str = "") -> str:
    """How many there are of a thing: ``1 shard``, ``3,068 images``.

    Args:
        count: how many.
        one: what one of them is called.
        many: what several are called; empty: with an s behind.
    """
    shown = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{shown} {one if count == 1 else many or f'{one}s'}"


def show_value(name: str, value: object) -> str:
    """Any value of a table as text: metrics as `show_metric` has them, None as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return show_metric(name, value)
    if isinstance(value, list | tuple):
        return ", ".join(show_value(name, item) for item in value)
    return str(value)
