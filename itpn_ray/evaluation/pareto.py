"""Which choices are best: the front of accuracy against images a second, and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from itpn_ray.evaluation.plot import BLUE, GREY, figure, save

Point = tuple[float, float]
_MOST_NAMES = 12


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Which points no other point beats in one measure without losing in the other.

    Args:
        points: (images a second, accuracy); more is better in both.

    Returns:
        Indices of the front, fastest first; of equal points, all.
    """
    front: list[int] = []
    best = -float("inf")
    # From the fastest on, a point belongs to the front if it is better than all before it.
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1])):
        speed, accuracy = points[index]
        equal = front and points[front[-1]] == (speed, accuracy)
        if accuracy > best or equal:
            front.append(index)
            best = accuracy
    return front


def plot_front(points: Sequence[Point], names: Sequence[str], path: str | Path) -> Path:
    """Draw accuracy against images a second, the front as steps.

    Args:
        points: (images a second, accuracy in [0, 1]).
        names: one a point; written beside those of the front.
        path: the PNG to write.

    Returns:
        The path written.
    """
    front = pareto_front(points)
    fig, axes = figure(6.4, 4.2)
    beaten = [point for i, point in enumerate(points) if i not in front]
    kept = [points[i] for i in front]
    axes.scatter(*_columns(beaten), color=GREY, alpha=0.7, s=28, label="other trials", zorder=2)
    axes.plot(*_columns(kept), color=BLUE, lw=1.2, drawstyle="steps-pre", zorder=3)
    axes.scatter(*_columns(kept), color=BLUE, s=44, label="front", zorder=4)
    for i in front[:_MOST_NAMES]:
        at = (points[i][0], 100 * points[i][1])
        axes.annotate(
            names[i], at, xytext=(6, 5), textcoords="offset points", fontsize=8, color="#333333"
        )
    axes.set(xlabel="images/s", ylabel="top-1 accuracy, %")
    axes.margins(0.12)
    axes.grid(color="#e6e8eb", lw=0.7)
    axes.set_axisbelow(True)
    if points:
        axes.legend(frameon=False, fontsize=9)
    return save(fig, path)


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [speed for speed, _ in points], [100 * accuracy for _, accuracy in points]
