"""A table's outcome as Markdown, for a page or a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from itpn_ray.formatting import label, show_duration, show_metric
from itpn_ray.reproduction.verdict import shown


def markdown(title: str, results: Mapping[str, Any]) -> str:
    """The outcome of :func:`itpn_ray.reproduction.outcome.outcome`, a heading and three tables."""
    lines = [f"## {title} ({results['source']})", "", f"Held: {results['held']}.", ""]
    if results["cells"]:
        lines += _table([_cell(row) for row in results["cells"]])
    if results["claims"]:
        lines += _table([_claim(row) for row in results["claims"]])
    lines += [
        f"- not available: {row['row']}, {row['column']}: {row['reason']}"
        for row in results["missing"]
    ]
    hours = show_duration(3600 * float(results["hours"]))
    return "\n".join([*lines, "", f"All runs together: {hours}.", ""])


def _cell(row: Mapping[str, Any]) -> dict[str, str]:
    paper = "" if row["paper"] is None else show_metric(row["metric"], row["paper"])
    told = {
        "row": row["row"],
        "column": row["column"],
        "paper": paper,
        "here": shown(row),
        "seeds": str(len(row["values"])),
        "epochs": " + ".join(f"{epochs:g}" for epochs in row["epochs"]),
        "images": " + ".join(f"{images:,}" for images in row["images"]),
        "time": show_duration(3600 * row["hours"]),
    }
    if "images_per_s" in row:
        told[label("images_per_s")] = show_metric("images_per_s", row["images_per_s"])
    return told


def _claim(row: Mapping[str, Any]) -> dict[str, str]:
    said = row.get("paper")
    return {
        "claim": row["claim"],
        "column": row["column"],
        "paper": "" if said is None else f"{100 * said:+.1f}",
        "here": row["text"],
    }


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|" + "---|" * len(rows[0])
    for row in rows:
        yield "| " + " | ".join(row.values()) + " |"
    yield ""
