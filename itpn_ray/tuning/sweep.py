"""A sweep from the driver's side: pre-train for each λ, run the trials, measure speed, compare."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import TrialsError
from itpn_ray.evaluation.pareto import pareto_front, plot_front
from itpn_ray.evaluation.speed import compare_speed
from itpn_ray.experiment import absolute
from itpn_ray.formatting import with_certainty
from itpn_ray.metrics import Metric
from itpn_ray.models import create_model
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import redirect_ray_output, start_ray
from itpn_ray.runs.folder import EXPORT, claim, folder_of, write_about
from itpn_ray.runs.journal import PLOTS, FileJournal
from itpn_ray.runs.lease import Lease
from itpn_ray.terminal.console import Console
from itpn_ray.tracking import create_tracker, flatten
from itpn_ray.training.ending import recorded_end
from itpn_ray.training.launch.driver import RAY_LOG, preflight
from itpn_ray.training.launch.driver import run as train
from itpn_ray.tuning.config import (
    SweepConfig,
    pretraining,
    sweep_as_saved_today,
    sweep_to_dict,
    trial,
)

SPEED_BATCH = 32


def sweep(config: SweepConfig, *, command: str, console: Console) -> Path:
    """Run the sweep, or go on where the same command stopped.

    Returns:
        The sweep's folder, with results.json, plots and report.

    Raises:
        TrialsError: trials failed; the results of the others are written.
        ItpnError: a mistake in the settings or the data.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the same command goes on.
    """
    config = dataclasses.replace(config, out=absolute(config.out), data=absolute(config.data))
    folder = folder_of(config.out, config.run)
    sample = {"layer_decay": config.layer_decay[1], "migration": config.migration[0]}
    preflight(trial(config, str(folder), "trial", sample, init=""))
    preflight(pretraining(config, str(folder), config.feature_weight[0]))
    claim_sweep(config, folder, command)
    write_about(folder, "Sweep", config.finetune.task.metrics)
    journal = FileJournal(folder)
    tracker = create_tracker(config.tracking, config.out)
    verbose = console.verbosity == "verbose"
    with Lease(str(folder), name=config.run), start_ray(with_slots(config), verbose=verbose):
        tracker.start(config.run, flatten(sweep_to_dict(config)), key=str(folder))
        journal.event("start", trials=config.trials)
        with recorded_end(journal, folder, tracker, console):
            weights = {
                weight: str(_pretrained(config, folder, weight, command, console))
                for weight in dict.fromkeys(config.feature_weight)
            }
            rows = _trials(config, folder, weights, console)
            if any(config.finetune.task.headline().name in row for row in rows):
                results = _compare(config, rows, folder)
                journal.result(**results)
                console.table([with_certainty(row, results["images"]) for row in results["trials"]])
            _tell_failures(rows, config.finetune.task.headline())
    console.summary(folder, where={"tracking": tracker.where})
    return folder


def claim_sweep(config: SweepConfig, folder: Path, command: str) -> None:
    """Make the sweep's folder, or take it up again; see `itpn_ray.runs.folder.claim`."""
    claim(
        folder,
        sweep_to_dict(config),
        inputs={"data": read_manifest(config.data).digest},
        command=command,
        free=("out", "run", "ray", "concurrent"),
        as_saved_today=sweep_as_saved_today,
    )


def with_slots(config: SweepConfig) -> RayConfig:
    """Ray with a CPU slot for each trial, where it is our own.

    Ray gives the slot of a trial that ASHA stopped back late; without spare ones the next trials
    wait. ``concurrent`` decides how many compute at once.
    """
    if config.ray.address or config.ray.num_cpus is not None:
        return config.ray
    slots = (config.trials + config.concurrent) * config.finetune.worker_range[1]
    return dataclasses.replace(config.ray, num_cpus=max(4, os.cpu_count() or 1, slots))


def _pretrained(
    config: SweepConfig, folder: Path, weight: float, command: str, console: Console
) -> Path:
    return (
        train(pretraining(config, str(folder), weight), command=command, console=console) / EXPORT
    )


def _trials(
    config: SweepConfig, folder: Path, weights: dict[float, str], console: Console
) -> list[dict[str, Any]]:
    from itpn_ray.tuning.trials import run_trials

    console.say(f"{config.trials} trials, {config.concurrent} at a time")
    with redirect_ray_output(folder / RAY_LOG, verbose=console.verbosity == "verbose"):
        rows = run_trials(config, folder, weights)

    return rows


def _tell_failures(rows: list[dict[str, Any]], judged: Metric) -> None:
    """Refuse to call a sweep done of which trials failed; those that ASHA stopped did not.

    Raises:
        TrialsError: some did.
    """
    failed = [row for row in rows if "error" in row or judged.name not in row]
    if failed:
        first = failed[0]
        raise TrialsError(
            "trials",
            len(failed),
            f"of {len(rows)} failed, the first, {first['trial']}, with: "
            f"{first.get('error', 'no evaluation')}",
            "Look at the trials' folders, and repeat the command to run them again",
        )


def _compare(config: SweepConfig, rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Add images/s at each trial's r, measured in turn on this machine, and find the front."""
    model = config.finetune.model
    ratios = sorted({row["migration"] for row in rows})
    networks = {
        r: create_model(model.name, num_classes=2, image_size=model.image_size, migration=r).eval()
        for r in ratios
    }
    speeds = compare_speed(networks, image_size=model.image_size, batch=SPEED_BATCH)
    for row in rows:
        row |= speeds[row["migration"]].as_row()
    metric = config.finetune.task.headline()
    done = [row for row in rows if metric.name in row]
    points = [(row["images_per_s"], row[metric.name]) for row in done]
    front = pareto_front(points, higher_is_better=metric.higher_is_better)
    for index, row in enumerate(done):
        row["front"] = index in front
    plot_front(points, [row["trial"] for row in done], folder / PLOTS / "front.png", metric)
    return {
        "trials": [*_best_first(done, metric), *(row for row in rows if metric.name not in row)],
        "images": len(open_dataset(config.data, "val")),
    }


def _best_first(rows: list[dict[str, Any]], metric: Metric) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row[metric.name], reverse=metric.higher_is_better)
