"""What a sweep answers: its sentence, how sure its best trials are, and what mattered."""

from __future__ import annotations

from itpn_ray.formatting import label, show_metric
from itpn_ray.metrics import headline
from itpn_ray.report.html import esc, section, table
from itpn_ray.runs.reader import RunRecord


def answer(record: RunRecord) -> str:
    """The section of a sweep's answer; empty of other runs."""
    told = record.results.get("answer", "")
    if not told:
        return ""
    return section("Answer", f"<p>{esc(told)}</p>", _repeats(record), _importance(record))


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
