"""A table's outcome as Markdown, for a page or a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from itpn_ray.formatting import show_duration
from itpn_ray.report.reproduction import cell_row, claim_row


def markdown(title: str, results: Mapping[str, Any]) -> str:
    """The outcome of :func:`itpn_ray.reproduction.outcome.outcome`, a heading and three tables."""
    lines = [f"## {title} ({results['source']})", "", f"Held: {results['held']}.", ""]
    if results["cells"]:
        lines += _table([cell_row(row) for row in results["cells"]])
    if results["claims"]:
        lines += _table([claim_row(row) for row in results["claims"]])
    lines += [
        f"- not available: {row['row']}, {row['column']}: {row['reason']}"
        for row in results["missing"]
    ]
    hours = show_duration(3600 * float(results["hours"]))
    return "\n".join([*lines, "", f"All runs together: {hours}.", ""])


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|" + "---|" * len(rows[0])
    for row in rows:
        yield "| " + " | ".join(row.values()) + " |"
    yield ""
