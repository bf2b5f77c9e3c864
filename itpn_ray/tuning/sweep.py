"""A sweep from the driver's side: pre-train for each λ, run the trials, measure speed, compare."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import ConfigError, RunError
from itpn_ray.evaluation.pareto import pareto_front, plot_front
from itpn_ray.evaluation.speed import compare_speed
from itpn_ray.experiment import absolute
from itpn_ray.models import create_model
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import redirect_ray_output, start_ray
from itpn_ray.report import write_report
from itpn_ray.runs.folder import CONFIG
from itpn_ray.runs.journal import PLOTS, FileJournal
from itpn_ray.runs.lease import Lease
from itpn_ray.terminal.console import Console
from itpn_ray.tracking import create_tracker, flatten
from itpn_ray.tracking.base import RunStatus
from itpn_ray.training.inputs import read_inputs, write_inputs
from itpn_ray.training.launch.driver import EXPORT, RAY_LOG, preflight
from itpn_ray.training.launch.driver import run as train
from itpn_ray.tuning.config import SweepConfig, pretraining, sweep_to_dict, trial

SPEED_BATCH = 32


def sweep(config: SweepConfig, *, command: str, console: Console) -> Path:
    """Run the sweep, or go on where the same command stopped.

    Returns:
        The sweep's folder, with results.json, plots and report.

    Raises:
        ItpnError: a mistake in the settings or the data, or every trial failed.
    """
    config = dataclasses.replace(config, out=absolute(config.out), data=absolute(config.data))
    folder = Path(config.out) / config.run
    sample = {"layer_decay": config.layer_decay[1], "migration": config.migration[0]}
    preflight(pretraining(config, str(folder), config.feature_weight[0]))
    preflight(trial(config, str(folder), "trial", sample, init=""))
    _claim(config, folder, command)
    journal = FileJournal(folder)
    tracker = create_tracker(config.tracking, config.out)
    status: RunStatus = "FAILED"
    begin = time.time()
    verbose = console.verbosity == "verbose"
    with Lease(str(folder), name=config.run), start_ray(with_slots(config), verbose=verbose):
        tracker.start(config.run, flatten(sweep_to_dict(config)), key=str(folder))
        journal.event("start", trials=config.trials)
        try:
            weights = {
                weight: str(_pretrained(config, folder, weight, command, console))
                for weight in dict.fromkeys(config.feature_weight)
            }
            rows = _trials(config, folder, weights, console)
            results = _compare(config, rows, folder)
            journal.result(**results)
            console.table(results["trials"])
            status = "FINISHED"
        finally:
            journal.event("end", status=status, seconds=round(time.time() - begin, 1))
            report = write_report(folder)
            for path in (folder / CONFIG, report, *sorted((folder / PLOTS).glob("*.png"))):
                tracker.log_artifact(path, "plots" if path.parent.name == PLOTS else "")
            tracker.finish(status)
    console.summary(folder, where={"tracking": tracker.where})
    return folder


def with_slots(config: SweepConfig) -> RayConfig:
    """Ray with a CPU slot for each trial, where it is our own.

    Ray gives the slot of a trial that ASHA stopped back late; without spare ones the next trials
    wait. ``concurrent`` decides how many compute at once.
    """
    if config.ray.address or config.ray.num_cpus is not None:
        return config.ray
    slots = (config.trials + config.concurrent) * config.finetune.worker_range[1]
    return dataclasses.replace(config.ray, num_cpus=max(4, os.cpu_count() or 1, slots))


def _claim(config: SweepConfig, folder: Path, command: str) -> None:
    path = folder / CONFIG
    plain = json.loads(json.dumps({**sweep_to_dict(config), "command": command}))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text()) if path.exists() else plain
        digests = {"data": read_manifest(config.data).digest}
        known = read_inputs(folder)
        free = ("command", "ray", "concurrent", "out", "run", *known)
        changed = sorted(k for k, v in before.items() if k not in free and plain.get(k) != v)
        changed += [name for name in known if known[name] != digests[name]]
        if changed:
            raise ConfigError(
                "run",
                config.run,
                f"is in use by a sweep with other settings of {', '.join(changed)}",
                "Choose another --run, or repeat the command of the first sweep to resume it",
            )
        write_inputs(folder, digests)
        path.write_text(json.dumps(plain, indent=1))
    except OSError as error:
        raise ConfigError(
            "out", config.out, f"cannot be written ({error.strerror})", "Choose another --out"
        ) from error


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
    if all("top1" not in row for row in rows):
        raise RunError(
            "trials",
            len(rows),
            f"have all failed, the first with: {rows[0].get('error', 'no evaluation')}",
            "Look at the trials' folders, and repeat the command",
        )
    return rows


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
        row["images_per_s"] = round(speeds[row["migration"]], 1)
    done = [row for row in rows if "top1" in row]
    front = pareto_front([(row["images_per_s"], row["top1"]) for row in done])
    for index, row in enumerate(done):
        row["front"] = index in front
    plot_front(
        [(row["images_per_s"], row["top1"]) for row in done],
        [row["trial"] for row in done],
        folder / PLOTS / "front.png",
    )
    return {"trials": sorted(rows, key=lambda row: -row.get("top1", -1.0))}
