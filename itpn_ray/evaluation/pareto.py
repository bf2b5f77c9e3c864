"""Which choices are best: the front of accuracy against images a second, and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from itpn_ray.evaluation.plot import BLUE, GREY, figure, save
from itpn_ray.metrics import Metric, find

Point = tuple[float, float]
_MOST_NAMES = 12
_TOP1 = find("top1")


def pareto_front(points: Sequence[Point], *, higher_is_better: bool = True) -> list[int]:
    """Which points no other point beats in one measure without losing in the other.

    Args:
        points: (images a second, metric); more images a second are better.
        higher_is_better: which of two values of the metric is the better one.

    Returns:
        Indices of the front, fastest first; of equal points, all.
    """
    sign = 1 if higher_is_better else -1
    front: list[int] = []
    best = -float("inf")
    # From the fastest on, a point belongs to the front if it is better than all before it.
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -sign * points[i][1])):
        value = sign * points[index][1]
        equal = front and points[front[-1]] == points[index]
        if value > best or equal:
            front.append(index)
            best = value
    return front


def plot_front(
    points: Sequence[Point],
    names: Sequence[str],
    path: str | Path,
    metric: Metric = _TOP1,
    halves: Sequence[float] = (),
) -> Path:
    """Draw a metric against images a second, the front as steps.

    Args:
        points: (images a second, metric).
        names: one a point; written beside those of the front, equal points together.
        path: the PNG to write.
        metric: what the points' second numbers are.
        halves: half of the interval of each point's second number, drawn for the front; nan where
            nothing tells it.

    Returns:
        The path written.
    """
    front = pareto_front(points, higher_is_better=metric.higher_is_better)
    percent = metric.unit == "%"
    scale = 100 if percent else 1
    points = [(speed, scale * value) for speed, value in points]
    fig, axes = figure(6.4, 4.2)
    beaten = [point for i, point in enumerate(points) if i not in front]
    kept = [points[i] for i in front]
    axes.scatter(*_columns(beaten), color=GREY, alpha=0.7, s=28, label="other trials", zorder=2)
    # Fastest first: down to the next slower point, this one is the best that there is.
    axes.plot(*_columns(kept), color=BLUE, lw=1.2, drawstyle="steps-post", zorder=3)
    axes.scatter(*_columns(kept), color=BLUE, s=44, label="front", zorder=4)
    if halves:
        bars = [scale * halves[i] for i in front]
        axes.errorbar(*_columns(kept), yerr=bars, fmt="none", ecolor=BLUE, elinewidth=0.8, zorder=3)
    together: dict[Point, list[str]] = {}
    for i in front[:_MOST_NAMES]:
        together.setdefault(points[i], []).append(names[i])
    for at, equal in together.items():
        text, place = ", ".join(equal), (6, 5)
        axes.annotate(
            text, at, xytext=place, textcoords="offset points", fontsize=8, color="#333333"
        )
    axes.set(xlabel="images/s", ylabel=f"{metric.label}, %" if percent else metric.label)
    axes.margins(0.12)
    axes.grid(color="#e6e8eb", lw=0.7)
    axes.set_axisbelow(True)
    if points:
        # Above the plot, where neither points nor intervals are.
        axes.legend(
            frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2
        )
    return save(fig, path)


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [speed for speed, _ in points], [value for _, value in points]
