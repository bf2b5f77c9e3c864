"""Tables and figures from the driver's side: plan, run what is left, judge, write."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import absolute
from itpn_ray.formatting import number_of, show_duration
from itpn_ray.ray_runtime.start import start_ray
from itpn_ray.report import REPORT
from itpn_ray.reproduction.attention import draw_attention
from itpn_ray.reproduction.config import ReproduceConfig
from itpn_ray.reproduction.grid import Table
from itpn_ray.reproduction.markdown import markdown
from itpn_ray.reproduction.outcome import outcome, seconds_of
from itpn_ray.reproduction.plan import Plan, plan
from itpn_ray.reproduction.speeds import speeds
from itpn_ray.reproduction.tables import TABLES
from itpn_ray.runs.folder import claim, folder_of, write_about
from itpn_ray.runs.journal import PLOTS, FileJournal
from itpn_ray.runs.lease import Lease
from itpn_ray.terminal.console import Console
from itpn_ray.tracking import create_tracker, flatten
from itpn_ray.training.ending import recorded_end
from itpn_ray.training.launch.driver import run as train

MARKDOWN = "table.md"
DATA = ("data", "intermediate", "objects", "masks", "rotated")
FREE = (
    "out",
    "ray",
    "workers",
    "cpus_per_worker",
    "dry_run",
    "tracking",
    "seeds",
    "teacher",
    *DATA,
)
"""Settings that may differ when a table goes on: more seeds, and data that was not there before;
what was named before is recognised by its content."""


def reproduce(config: ReproduceConfig, *, command: str, console: Console) -> list[Path]:
    """Run every named table, or go on where the same command stopped.

    Returns:
        The folder of each, with results.json, table.md and report.html; none after a dry run.

    Raises:
        ConfigError: no cell of a table can be run, or a name is in use.
        ItpnError: a run failed; the same command goes on with it.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the same command goes on.
    """
    config = dataclasses.replace(config, out=absolute(config.out))
    plans = {name: plan(TABLES[name], config) for name in config.tables}
    for name, found in plans.items():
        _tell(name, found, console)
    if config.dry_run:
        # By name, for tables share runs as well.
        runs = {name: run for found in plans.values() for name, run in found.runs().items()}
        for run in runs.values():
            console.say(run.command)
        return []
    return [_reproduce(name, found, config, command, console) for name, found in plans.items()]


def _tell(name: str, found: Plan, console: Console) -> None:
    """Say what a table takes, and what of it cannot be run.

    Raises:
        ConfigError: nothing of it can be.
    """
    console.say(
        f"{name}: {number_of(len(found.cells), 'cell')}, {number_of(len(found.runs()), 'run')}"
    )
    for cell, reason in found.missing:
        console.say(f"  not available: {cell.row}, {cell.column}: {reason}")
    if not found.cells:
        raise ConfigError(
            "table",
            name,
            f"has no cell that can be run here: {found.missing[0][1]}",
            "Name what is missing",
        )


def _reproduce(
    name: str, found: Plan, config: ReproduceConfig, command: str, console: Console
) -> Path:
    table = TABLES[name]
    folder = folder_of(config.out, f"{name}-{config.scale}")
    tasks = [run.config.task for run in found.runs().values()]
    metrics = list(dict.fromkeys(metric for task in tasks for metric in task.metrics))
    tracker = create_tracker(config.tracking, config.out)
    # The lease first: nothing in the folder may be touched before it is this driver's.
    with Lease(str(folder), name=folder.name):
        _claim(folder, name, config, command)
        write_about(folder, table.source, metrics)
        journal = FileJournal(folder)
        tracker.start(folder.name, flatten(_settings(config)), key=str(folder))
        journal.event("start")
        with recorded_end(journal, folder, tracker, console):
            with _ray(found, config, console):
                _run_all(found, console)
            results = _results(table, found, folder)
            journal.result(**results)
            (folder / MARKDOWN).write_text(markdown(table.title, results))
    for row in results["claims"]:
        console.say(f"{row['column']}: {row['claim']}: {row['text']}")
    console.say(f"{name}: {folder / MARKDOWN} and {folder / REPORT}")
    return folder


def _settings(config: ReproduceConfig) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(config).items() if key != "tables"}


def _claim(folder: Path, name: str, config: ReproduceConfig, command: str) -> None:
    """Make the table's folder, or take it up again; see `itpn_ray.runs.folder.claim`."""
    data = {key: getattr(config, key) for key in DATA}
    claim(
        folder,
        {**_settings(config), "run": name},
        inputs={key: read_manifest(place).digest for key, place in data.items() if place},
        command=command,
        free=FREE,
        as_saved_today=dict,
    )


def _ray(found: Plan, config: ReproduceConfig, console: Console) -> AbstractContextManager[object]:
    """One Ray for all runs that need it, which each would start anew."""
    if all(run.config.workers == "0" for run in found.runs().values()):
        return nullcontext()
    return start_ray(config.ray, verbose=console.verbosity == "verbose")


def _run_all(found: Plan, console: Console) -> None:
    """Run what has not been run, in this process or under Ray as each run's workers say."""
    runs = found.runs()
    for number, (name, run) in enumerate(runs.items(), start=1):
        console.say(f"run {number} of {len(runs)}: {run.verb} {name}, seed {run.config.seed}")
        train(run.config, command=run.command, console=console)


def _results(table: Table, found: Plan, folder: Path) -> dict[str, Any]:
    """What the report shows."""
    results = outcome(table, found)
    runs = {name: run.config for name, run in found.runs().items()}
    seconds = sum(map(seconds_of, runs.values()))
    if table.timed:
        for row, speed in zip(results["cells"], speeds(list(found.cells), folder), strict=True):
            row |= speed.as_row()
    if table.attention:
        draw_attention(list(found.cells), folder / PLOTS / "attention.png")
    stages = [{"folder": f"{run.out}/{name}", "name": name} for name, run in runs.items()]
    return {**results, "hours": seconds / 3600, "time": show_duration(seconds), "stages": stages}
