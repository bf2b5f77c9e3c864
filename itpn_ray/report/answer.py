"""What a sweep answers: its sentence, how sure its best trials are, and what mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from itpn_ray.formatting import label, show_metric
from itpn_ray.metrics import headline
from itpn_ray.report.chart import Mark, scatter_chart
from itpn_ray.report.html import esc, section, table
from itpn_ray.runs.reader import RunRecord

_SPENT = {"pretraining": "pre-training", "trial": "trials", "repeat": "repeats"}


def answer(record: RunRecord) -> str:
    """The section of a sweep's answer; empty of other runs."""
    told = record.results.get("answer", "")
    if not told:
        return ""
    return section(
        "Answer",
        f"<p>{esc(told)}</p>",
        _spent(record),
        _repeats(record),
        _importance(record),
        _slices(record),
        _next(record),
    )


def _spent(record: RunRecord) -> str:
    """Hours of the sweep's runs."""
    hours = {name: record.results.get(f"{name}_hours", 0.0) for name in _SPENT}
    told = ", ".join(
        f"{hours[name]:.2f} h of {what}" for name, what in _SPENT.items() if hours[name]
    )
    return f'<p class="soft">Spent: {esc(told)}.</p>' if told else ""


def _slices(record: RunRecord) -> str:
    """The headline metric along each setting that is a number; trials on the front coloured."""
    trials = record.results.get("trials", [])
    metric = headline(trials[0]) if trials else ""
    charts = [
        scatter_chart(label(name), marks, x=name, y=metric, joined=False)
        for name in record.results.get("settings", [])
        for marks in [_marks(trials, name, metric)]
        if len({mark.x for mark in marks}) > 1
    ]
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _marks(trials: Sequence[Mapping[str, Any]], name: str, metric: str) -> list[Mark]:
    return [
        Mark(x=row[name], y=row[metric], name=row["trial"], front=bool(row["front"]), named=False)
        for row in trials
        if metric in row and isinstance(row.get(name), int | float)
    ]


def _next(record: RunRecord) -> str:
    """What the next sweep should try."""
    told = record.results.get("next", [])
    items = "".join(f"<li>{esc(text)}</li>" for text in told)
    return f"<p>The next sweep should try:</p><ul>{items}</ul>" if told else ""


def _repeats(record: RunRecord) -> str:
    """The trials that were trained again with other seeds."""
    rows = [
        {
            "trial": row["trial"],
            label(name): show_metric(name, row[name]),
            "± (95 %)": show_metric(name, row["half"]),
            "seeds": row["seeds"],
        }
        for row in record.results.get("repeats", [])
        for name in [headline(row)]
        if name
    ]
    return table(rows) if rows else ""


def _importance(record: RunRecord) -> str:
    """How much each setting mattered, or why that is not told."""
    if refused := record.results.get("importance_refused"):
        return f'<p class="soft">{esc(refused)}</p>'
    rows = [
        {
            "setting": label(row["setting"]),
            "importance": f"{row['importance']:.0%}",
            "resampled, 90 %": f"{row['low']:.0%} to {row['high']:.0%}",
        }
        for row in record.results.get("importance", [])
    ]
    return table(rows) if rows else ""
