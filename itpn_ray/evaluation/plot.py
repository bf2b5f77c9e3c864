"""How every plot of the project looks, drawn without a screen and without global state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = "#2f6f9f"
RED = "#b5482f"
GREY = "#8a8f98"


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of one plot, inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not by pyplot, which keeps each figure until it is closed.
    fig = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return fig, axes


def save(fig: Figure, path: str | Path) -> Path:
    """Write a figure as PNG and return where."""
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Without matplotlib's version, so that equal plots are equal files.
    fig.savefig(out, format="png", metadata={"Software": None})
    return out
