"""What a reproduced table of the paper shows: values beside the paper's, verdicts, curves, speeds.

All is read from results.json: ``cells``, ``claims``, ``missing`` and ``curves``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from itpn_ray.formatting import is_fraction, show_duration, show_metric
from itpn_ray.report.chart import Mark, Series, bar_chart, line_chart, scatter_chart
from itpn_ray.report.html import esc, section, table
from itpn_ray.runs.reader import RunRecord

Rows = Sequence[Mapping[str, Any]]


def reproduction(record: RunRecord) -> str:
    """The sections of a reproduced table; empty of other runs."""
    cells: Rows = record.results.get("cells", [])
    if not cells:
        return ""
    held = f'<p class="soft">Held: {esc(record.results["held"])}.</p>'
    charts = "".join([*_curves(record), *_speeds(cells), *_bars(cells)])
    return "".join(
        [
            section("Claims", table([claim_row(row) for row in record.results["claims"]]))
            if record.results["claims"]
            else "",
            section("Beside the paper", held, table([cell_row(row) for row in cells])),
            section("Charts", f'<div class="charts">{charts}</div>' if charts else ""),
            _missing(record.results["missing"]),
        ]
    )


def claim_row(row: Mapping[str, Any]) -> dict[str, str]:
    """A claim of the paper, the paper's difference and what was found, as text."""
    said = row.get("paper")
    points = "" if said is None else f"{100 * said:+.1f}"
    return {
        "column": row["column"],
        "claim": row["claim"],
        "paper": points,
        "here": row["text"],
    }


def cell_row(row: Mapping[str, Any]) -> dict[str, str]:
    """A cell, the paper's value and what was measured with what it took, as text."""
    name, half = row["metric"], row["half"]
    told = {
        "row": row["row"],
        "column": row["column"],
        "paper": "" if row["paper"] is None else show_metric(name, row["paper"]),
        "here": show_metric(name, row["value"]),
        "± (95 %)": "" if half is None else show_metric(name, half),
        "seeds": str(len(row["values"])),
        "epochs": " + ".join(f"{epochs:g}" for epochs in row["epochs"]),
        "images": " + ".join(f"{images:,}" for images in row["images"]),
        "time": show_duration(3600 * row["hours"]),
    }
    speed = row.get("images_per_s")
    return told if speed is None else {**told, "images/s": show_metric("images_per_s", speed)}


def _curves(record: RunRecord) -> list[str]:
    return [
        line_chart(
            one["title"],
            [Series(name=line["name"], points=line["points"]) for line in one["series"]],
            metric=one["metric"],
            x="epoch",
        )
        for one in record.results.get("curves", [])
    ]


def _speeds(cells: Rows) -> list[str]:
    timed = [row for row in cells if "images_per_s" in row]
    marks = [
        Mark(
            x=row["images_per_s"],
            y=row["value"],
            name=row["row"],
            front=True,
            named=True,
            half=row["half"] or 0.0,
        )
        for row in timed
    ]
    if not marks:
        return []
    return [
        scatter_chart(
            timed[0]["column"], marks, x="images_per_s", y=timed[0]["metric"], joined=False
        )
    ]


def _bars(cells: Rows) -> list[str]:
    """Each column of fractions as bars."""
    finite = [row for row in cells if is_fraction(row["metric"]) and math.isfinite(row["value"])]
    charts = []
    for column in dict.fromkeys(row["column"] for row in finite):
        rows = [row for row in finite if row["column"] == column]
        bars = [(str(row["row"]), float(row["value"])) for row in rows]
        charts.append(bar_chart(column, bars, metric=rows[0]["metric"]))
    return charts


def _missing(rows: Rows) -> str:
    shown = [{"row": row["row"], "column": row["column"], "why": row["reason"]} for row in rows]
    return section("Not available", table(shown)) if shown else ""
