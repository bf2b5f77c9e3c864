"""The page of a card: bars, tables and plots of all parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.bars import bars
from benchmarks.gpu.results import PartResult

WIDEST = 24
"""Bars in a plot; the first lines are the most important ones."""
PLOTS = {
    "trunk": ("tflops", ("what", "network", "pixels", "mode"), "TFLOP/s"),
    "acceleration": ("speed_up", ("network", "size", "mode", "variant"), "times the plain network"),
    "pretraining": ("images_per_s", ("network", "case"), "images/s"),
    "input": ("images_per_s", ("what",), "images/s"),
    "detection": ("images_per_s", ("head", "what", "variant"), "images/s"),
    "segmentation": ("images_per_s", ("what", "variant"), "images/s"),
}
"""Part -> what is plotted of its lines, what names a bar, and the axis."""


def write_report(parts: Mapping[str, PartResult], path: Path) -> str:
    """Write the page and its plots beside it; returns the page."""
    page = ["# What this card gives", ""]
    machine = next(iter(parts.values())).machine if parts else {}
    page += ["| machine | |", "|---|---|", *(f"| {k} | {v} |" for k, v in machine.items()), ""]
    page += ["## Bars", "", *(bar.told() for bar in bars(parts)), ""]
    for name, part in parts.items():
        took = "not finished" if part.seconds is None else f"{part.seconds:.0f} s"
        page += [f"## {part.title}", "", f"{took}, {part.scale} sizes", "", part.table()]
        if name in PLOTS and plot(name, part.lines, path.parent / f"{name}.png"):
            page += [f"![{part.title}]({name}.png)", ""]
    text = "\n".join(page)
    path.write_text(text)
    return text


def plot(name: str, lines: list[dict[str, Any]], path: Path) -> bool:
    """Horizontal bars of a part's first lines, with marks where speed was promised; if any."""
    from matplotlib.figure import Figure

    key, labels, axis_label = PLOTS[name]
    drawn = [line for line in lines if key in line][:WIDEST]
    if not drawn:
        return False
    figure = Figure(figsize=(8, 0.6 + 0.28 * len(drawn)), dpi=120, layout="constrained")
    axis = figure.subplots()
    places = range(len(drawn))
    axis.barh(places, [line[key] for line in drawn], color="#2f6f9f", label="measured")
    axis.set_yticks(places, [", ".join(str(line[label]) for label in labels) for line in drawn])
    axis.invert_yaxis()
    axis.set_xlabel(axis_label)
    axis.spines[["top", "right"]].set_visible(False)
    if "promise" in drawn[0]:
        promises = [line.get("promise") for line in drawn]
        axis.plot(promises, places, "|", ms=12, mew=2, color="#b5482f", label="promised")
        axis.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})
    return True
