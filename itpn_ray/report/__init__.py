"""The report that a run ends with: one file that needs nothing else, not even a network."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itpn_ray.errors import DataError
from itpn_ray.report import sections
from itpn_ray.report.answer import answer
from itpn_ray.report.costs import costs
from itpn_ray.report.curves import accuracy_charts, learning_charts
from itpn_ray.report.html import details, esc, tiles
from itpn_ray.report.reproduction import reproduction
from itpn_ray.report.style import CSS
from itpn_ray.report.versions import hardware, versions
from itpn_ray.runs.folder import CONFIG, REPORT
from itpn_ray.runs.journal import METRICS, RESULTS
from itpn_ray.runs.reader import RunRecord, read_run

if TYPE_CHECKING:
    from itpn_ray.terminal.console import Console

__all__ = ["REPORT", "add_report", "report_again", "write_report"]

RECORDS = (CONFIG, METRICS, RESULTS, "manifest.json")
"""What a folder has, one at least, of which a report can be written."""
MOST_PICTURED = 8
"""Runs whose images are shown in the report of them all; each image is about a megabyte."""


def add_report(run_dir: str | Path, console: Console) -> Path | None:
    """Write the report that a run ends with; one that fails is a warning and spoils nothing.

    Returns:
        The report; None where it could not be written, which is said, and logged in full.
    """
    try:
        return write_report(run_dir)
    except Exception as error:  # whatever it is, what was trained or measured is kept
        console.detail(traceback.format_exc())
        console.warn(
            f"there is no report ({type(error).__name__}: {error}); all it shows is kept: "
            f"`itpn-ray report {run_dir}` makes it again"
        )
        return None


def write_report(run_dir: str | Path) -> Path:
    """Write a run's report from what its folder holds.

    A folder whose results.json has ``stages`` gets a report with a summary of each. A stage is
    the path of a run's folder, absolute or from this one, or a dict with ``folder`` and
    optionally ``name`` and further metrics.

    Args:
        run_dir: the run's folder.

    Returns:
        The report, ``report.html`` in the folder, replaced whole.

    Raises:
        FileNotFoundError: there is no such folder.
        DataError: a record in it is damaged.
    """
    record = read_run(run_dir)
    stages = record.results.get("stages", [])
    # A reproduced table has dozens of runs: their images are in their own reports.
    pictured = len(stages) <= MOST_PICTURED
    summaries = [_stage(record, stage, pictured) for stage in stages]
    body = [
        sections.header(record),
        sections.comparison(record),
        # Before its many runs, which it sums up.
        reproduction(record),
        sections.stages(record, summaries),
        answer(record),
        sections.speed(record),
        sections.sweep(record),
        sections.migration(record),
        sections.curves(record),
        sections.images(record),
        sections.per_class(record),
        sections.mistakes(record),
        sections.prepared(record),
        sections.restarts(record),
        costs(record),
        sections.settings(record, versions(), hardware()),
    ]
    # Replaced whole: a report that is open in a browser is never half a page.
    path = record.folder / REPORT
    temporary = path.with_name(f".{REPORT}.{os.getpid()}")
    temporary.write_text(_page(record, "".join(body)))
    temporary.replace(path)
    return path


def report_again(run_dir: str) -> Path:
    """Write the report of a run that ended without one, or with one of an older version.

    Raises:
        DataError: there is no such folder, or it holds no record of a run.
    """
    folder = Path(run_dir).expanduser()
    if not any((folder / name).is_file() for name in RECORDS):
        raise DataError(
            str(folder), None, "holds no run", f"Give a folder with one of {', '.join(RECORDS)}"
        )
    return write_report(folder)


def _page(record: RunRecord, body: str) -> str:
    footer = f"<footer>Written by itpn-ray from {esc(record.folder.absolute())}</footer>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{esc(record.name)}</title><style>{CSS}</style></head>"
        f"<body><main>{body}{footer}</main></body></html>\n"
    )


def _stage(outer: RunRecord, stage: str | Mapping[str, Any], pictured: bool) -> str:
    """The summary of one stage of a run that is made of runs, with its images or without."""
    entry = {"folder": stage} if isinstance(stage, str) else dict(stage)
    folder = outer.folder / str(entry.pop("folder", "."))
    name = entry.pop("name", None)
    # Without a folder of its own a stage is its metrics alone.
    if folder == outer.folder / "." or not folder.is_dir():
        return _stage_frame(str(name or folder.name), "", _labelled(entry))
    record = read_run(folder)
    metrics = {**sections.summary_metrics(record), **_labelled(entry)}
    charts = [
        # The loss itself; its terms are in the full report.
        *learning_charts(record)[:1],
        *accuracy_charts(record),
        *sections.speed_charts(record),
    ]
    tables = [
        answer(record),
        sections.sweep(record),
        sections.migration(record),
        sections.per_class(record),
        sections.prepared(record),
    ]
    content = f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""
    if pictured:
        content += sections.gallery(record)
    if any(tables):
        content += details("Tables", "".join(tables))
    link = ""
    if (folder / REPORT).exists():
        link = f'<a href="{esc(os.path.relpath(folder / REPORT, outer.folder))}">full report</a>'
    title = str(name or (f"{record.title}: {record.name}" if record.title else record.name))
    return _stage_frame(title, link, metrics, record.status, content)


def _stage_frame(
    title: str, link: str, metrics: Mapping[str, str], status: str = "", content: str = ""
) -> str:
    mark = f'<span class="status {esc(status)}">{esc(status)}</span>' if status else ""
    return (
        f'<section class="stage"><div class="head"><h2>{esc(title)}</h2>{mark}{link}</div>'
        f"{tiles(metrics)}{content}</section>"
    )


def _labelled(values: Mapping[str, Any]) -> dict[str, str]:
    from itpn_ray.formatting import label, show_value

    return {label(name): show_value(name, value) for name, value in values.items()}
