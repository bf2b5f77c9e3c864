"""A sweep from the driver's side: time networks, pre-train, run the trials, compare."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from itpn_ray.costs.prices import prices_of
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError, TrialsError
from itpn_ray.evaluation.pareto import pareto_front, plot_front
from itpn_ray.experiment import absolute
from itpn_ray.formatting import label, number_of, with_certainty
from itpn_ray.metrics import Metric
from itpn_ray.models.weights.export import check_onnx_libraries
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import redirect_ray_output, start_ray
from itpn_ray.runs.folder import EXPORT, claim, tracking_key, write_about
from itpn_ray.runs.journal import PLOTS, FileJournal
from itpn_ray.runs.lease import Lease
from itpn_ray.runs.mirror import fetched, is_uri, kept, run_place
from itpn_ray.storage import join
from itpn_ray.terminal.console import Console
from itpn_ray.tracking import create_tracker, flatten
from itpn_ray.training.claim import run_uri
from itpn_ray.training.devices import with_devices
from itpn_ray.training.ending import recorded_end
from itpn_ray.training.launch.driver import RAY_LOG, preflight
from itpn_ray.training.launch.driver import run as train
from itpn_ray.training.spending import Spending
from itpn_ray.training.stopping import SweepStop
from itpn_ray.tuning.answer import Score
from itpn_ray.tuning.conclusion import apply_trial, conclude, repeated
from itpn_ray.tuning.config import (
    COMPILED,
    ONNX,
    TORCH,
    SweepConfig,
    pretraining,
    sweep_as_saved_today,
    sweep_to_dict,
    trial,
)
from itpn_ray.tuning.space import Point, combinations, stage_of
from itpn_ray.tuning.speed import (
    Timings,
    check_reachable,
    judge_point,
    networks,
    shaping,
    timings,
)
from itpn_ray.tuning.spent import hours, hours_line
from itpn_ray.tuning.study import SweepStudy, name_of, warm_start

FREE = (
    *("out", "run", "ray", "cost", "concurrent"),
    *("trials", "extend", "repeat_best", "seeds", "apply"),
)
"""Settings that may differ when a sweep goes on."""


def sweep(config: SweepConfig, *, command: str, console: Console) -> Path:
    """Run the sweep, or go on where the same command stopped.

    Returns:
        The sweep's folder, with results.json, plots and report; where OUT is a URI, the working
        folder on this machine.

    Raises:
        TrialsError: trials failed; the results of the others are written.
        ItpnError: a mistake in the settings or the data.
        CapReached: the machines have cost ``max_cost``.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the same command goes on.
    """
    config = dataclasses.replace(config, out=absolute(config.out), data=absolute(config.data))
    folder = run_place(config.out, config.run)
    # Before the lease and the folder, so that what is refused leaves nothing behind.
    _preflight(config)
    with (
        Lease(config.place, name=config.run) as lease,
        kept(config.out, config.run, lease.confirm),
    ):
        claim_sweep(config, folder, command)
        write_about(folder, "Sweep", config.finetune.task.metrics)
        tracker = create_tracker(config.tracking, config.out)
        verbose = console.verbosity == "verbose"
        with (
            redirect_ray_output(folder / RAY_LOG, verbose=verbose),
            start_ray(with_slots(config), verbose=verbose),
        ):
            tracker.start(config.run, flatten(sweep_to_dict(config)), key=tracking_key(folder))
            journal = FileJournal(folder)
            journal.event("start", trials=config.total_trials)
            stop = SweepStop()
            spending = Spending(folder, config.cost, prices_of(config.cost), stop)
            with recorded_end(journal, folder, tracker, console), stop.answered(), spending:
                _run(config, folder, command, journal, console)
    kept_at = {"run": config.place} if is_uri(config.out) else {}
    console.summary(folder, where={"tracking": tracker.where, **kept_at})
    return folder


def _preflight(config: SweepConfig) -> None:
    """Find in seconds what would end the sweep later: `preflight` of its first runs.

    Raises:
        ItpnError: see `preflight`, and a dimension that decides speeds but cannot be timed.
    """
    shaping(config.dimensions, config.finetune.task)
    if config.target == ONNX:
        check_onnx_libraries("target", config.target)
    first = {one.name: one.values[0] for one in config.dimensions}
    one = trial(config, config.place, "trial", first, init=config.finetune.model.init)
    if config.pretrains:
        # What is said of initial weights is of those that this pre-training will have made.
        model = dataclasses.replace(
            one.model, freeze_trunk=False, partial_init=False, init_key=None
        )
        one = dataclasses.replace(one, model=model)
    # Fine-tuning first: it asks more of the data, and nothing is written before that is known.
    preflight(one)
    if config.pretrains:
        preflight(pretraining(config, first))


def claim_sweep(config: SweepConfig, folder: Path, command: str) -> None:
    """Make the sweep's folder, or take it up again; see `itpn_ray.runs.folder.claim`."""
    claim(
        folder,
        sweep_to_dict(config),
        inputs={"data": read_manifest(config.data).digest},
        command=command,
        free=FREE,
        as_saved_today=sweep_as_saved_today,
    )


def _run(
    config: SweepConfig, folder: Path, command: str, journal: FileJournal, console: Console
) -> None:
    """Time, pre-train, run the trials, compare them."""
    timed = _timings(config, folder, console)
    study = open_study(config, folder, timed)
    if config.warm_start:
        taken = warm_start(study, _earlier(config.warm_start))
        console.say(f"known to the search: {number_of(taken, 'trial')} of {config.warm_start}")
    weights = _pretrained(config, folder, study, command, console) if config.pretrains else {}
    rows = _trials(config, folder, weights, timed, study, console)
    metric = config.finetune.task.headline().name
    if done := [row for row in rows if metric in row]:
        results = _compare(config, rows, folder)
        values = repeated(
            config, done, study, weights, command, console, parent=tracking_key(folder)
        )
        results |= conclude(config, done, values, study)
        results |= hours(config, folder, [(name_of(one), one.params) for one in study.trials()])
        journal.result(**results)
        console.table([with_certainty(row, results["images"]) for row in results["trials"]])
        console.say(results.get("importance_refused") or _importance_line(results["importance"]))
        for text in results["next"]:
            console.say(f"the next sweep should try {text}")
        console.say(hours_line(results))
        console.say(results["answer"])
        if config.apply:
            best = results["best"], results["best_migration"]
            console.say(f"applied: {apply_trial(config, folder, *best)}")
    # Only now, when the results of the others are written.
    _tell_failures(rows, metric)


def _earlier(named: str) -> Path:
    """The folder of an earlier sweep, on this machine.

    Raises:
        ConfigError: there is nothing under the URI.
    """
    try:
        return fetched(named) if is_uri(named) else Path(absolute(named))
    except FileNotFoundError as error:
        raise ConfigError("warm_start", named, "does not exist", "Check the address") from error


def _importance_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """Settings by how much of the metric's variance they explain, in one line."""
    shown = [
        f"{label(row['setting'])} {row['importance']:.0%} ({row['low']:.0%} to {row['high']:.0%})"
        for row in rows
    ]
    return f"importance: {', '.join(shown)}"


def _timings(config: SweepConfig, folder: Path, console: Console) -> Timings:
    """Time the networks of the space as trials will have them.

    Raises:
        ConfigError: none of them is as fast as is asked for.
    """
    from itpn_ray.training.launch.ray_trainer import cluster_gpus

    gpu = bool(with_devices(config.finetune, cluster_gpus()).gpus) and config.target != ONNX
    how = {TORCH: "", COMPILED: ", compiled", ONNX: ", as ONNX"}[config.target]
    where = f"on a worker's {'GPU' if gpu else 'CPU'}"
    console.say(f"timing {len(networks(config))} networks {where}{how}")
    timed = timings(config, folder, gpu=gpu)
    check_reachable(config, timed)
    return timed


def open_study(config: SweepConfig, folder: Path, timed: Timings) -> SweepStudy:
    """The sweep's study, new or as an earlier driver left it."""
    return SweepStudy(
        folder,
        config.dimensions,
        higher_is_better=config.finetune.task.headline().higher_is_better,
        search=config.search,
        trials=config.total_trials,
        planned=config.quasi_trials,
        seed=config.seed,
        judge=partial(judge_point, config, timed),
    )


def with_slots(config: SweepConfig) -> RayConfig:
    """Ray with the CPU slots of each trial, where it is our own.

    Ray gives the slot of a trial that was stopped back late; without spare ones the next trials
    wait. ``concurrent`` decides how many compute at once.
    """
    if config.ray.address or config.ray.num_cpus is not None:
        return config.ray
    of_trial = config.finetune.worker_range[1] * config.finetune.cpus_per_worker
    slots = math.ceil((config.total_trials + config.concurrent) * of_trial)
    return dataclasses.replace(config.ray, num_cpus=max(4, os.cpu_count() or 1, slots))


def _pretrained(
    config: SweepConfig, folder: Path, study: SweepStudy, command: str, console: Console
) -> dict[str, str]:
    """Run every pre-training that trials can ask for, in the order in which the first ones do.

    Returns:
        Where its weights are kept, by its name.
    """
    points: list[Point] = [*study.design]
    # TPE may come to any combination, the other searches only to what is planned.
    if config.search == "tpe":
        points += combinations(stage_of(config.dimensions, "pretrain"))
    # By name: points that share a pre-training have it once.
    runs = {one.run: one for one in (pretraining(config, point) for point in points)}
    for one in runs.values():
        train(one, command=command, console=console, parent=tracking_key(folder))
    return {name: join(run_uri(one), EXPORT) for name, one in runs.items()}


def _trials(
    config: SweepConfig,
    folder: Path,
    weights: dict[str, str],
    timed: Timings,
    study: SweepStudy,
    console: Console,
) -> list[dict[str, Any]]:
    from itpn_ray.tuning.trials import run_trials

    console.say(f"{number_of(config.total_trials, 'trial')}, {config.concurrent} at a time")
    return run_trials(config, folder, weights, timed, study)


def _tell_failures(rows: list[dict[str, Any]], metric: str) -> None:
    """Refuse to call a sweep done of which trials failed; those that others stopped did not.

    Raises:
        TrialsError: some did.
    """
    # A trial that others stopped has an evaluation and no error.
    failed = [row for row in rows if "error" in row or metric not in row]
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
    """Order the trials and find the front."""
    metric = config.finetune.task.headline()
    done = [row for row in rows if metric.name in row]
    points = [(row["images_per_s"], row[metric.name]) for row in done]
    front = pareto_front(points, higher_is_better=metric.higher_is_better)
    for index, row in enumerate(done):
        row["front"] = index in front
    images = len(open_dataset(config.data, "val"))
    halves = [Score.of([row[metric.name]], metric, images).half for row in done]
    names = [row["trial"] for row in done]
    plot_front(points, names, folder / PLOTS / "front.png", metric, halves)
    return {
        "trials": [*_best_first(done, metric), *(row for row in rows if metric.name not in row)],
        "images": images,
    }


def _best_first(rows: list[dict[str, Any]], metric: Metric) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row[metric.name], reverse=metric.higher_is_better)
