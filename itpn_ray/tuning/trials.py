"""Trials under Ray Tune: each is a Ray Train run, and those that others beat are stopped."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import told_by
from itpn_ray.experiment import with_absolute_paths
from itpn_ray.ray_runtime.start import environment
from itpn_ray.runs.folder import EXPORT, tracking_key
from itpn_ray.runs.journal import FileJournal
from itpn_ray.storage import join
from itpn_ray.tracking import Tracker, create_tracker
from itpn_ray.tracking.base import RunStatus
from itpn_ray.training.claim import claim_run, run_folder
from itpn_ray.training.exporting import export
from itpn_ray.training.launch.ray_trainer import launch
from itpn_ray.tuning.config import TRIALS, SweepConfig, pretraining, trial
from itpn_ray.tuning.scheduler import DominanceHalving, rungs, share_noise
from itpn_ray.tuning.searcher import (
    TRIAL,
    DominanceScheduler,
    StudySearcher,
    evaluations,
    trial_folder,
)
from itpn_ray.tuning.speed import Timings, scores, timings_at
from itpn_ray.tuning.study import SweepStudy, name_of

DRIVER_SHARE = 0.001
"""What a trial's driver, which only waits, takes of the mark by which Ray names a node."""
PLAIN_NOISE = 0.01
"""Difference within which trials count as equal by a metric that counts no images."""


def run_trials(
    config: SweepConfig,
    folder: Path,
    weights: dict[str, str],
    timed: Timings,
    study: SweepStudy,
) -> list[dict[str, Any]]:
    """Run the trials that the study asks for, first those that a killed driver left.

    Args:
        config: the sweep.
        folder: the sweep's folder.
        weights: name of a pre-training -> where its weights are kept.
        timed: how fast networks are.
        study: asks for points and is told what became of them.

    Returns:
        A dict a trial: ``trial``, its point, ``epoch``, the metrics of its last evaluation, its
        speed, and ``error`` where it failed.

    Raises:
        KeyboardInterrupt: Ctrl-C; the same call takes up the trials that have begun.
    """
    scheduler = DominanceScheduler(config, folder, timed, halving(config))
    scheduler.recall({name_of(one): one.params for one in study.trials()})
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(
                # Trials have other working folders than this process.
                _trial,
                sweep=dataclasses.replace(config, finetune=with_absolute_paths(config.finetune)),
                weights=weights,
                scratch=tempfile.gettempdir(),
            ),
            beside_this_process(),
        ),
        tune_config=tune.TuneConfig(
            num_samples=-1,  # the searcher says when there are enough
            max_concurrent_trials=config.concurrent,
            search_alg=StudySearcher(config, folder, timed, study),
            scheduler=scheduler,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            # Tune's own records of this start alone: the study and the trials' folders are the
            # sweep's state.
            name=f"{time.time():.0f}",
            storage_path=str(folder / "ray"),
            verbose=0,
            callbacks=[TrackTrials(config, tracking_key(folder))],
        ),
    )
    try:
        # Tune's own handler would return as if all trials had come to their end.
        with environment({"TUNE_DISABLE_SIGINT_HANDLER": "1"}):
            results = tuner.fit()
    except KeyboardInterrupt:
        TrackTrials.close_all("INTERRUPTED")
        raise
    errors = {
        # The last line of a traceback says what went wrong.
        str((result.config or {})[TRIAL]): told_by(result.error, -1)
        for result in (results[i] for i in range(len(results)))
        if result.error is not None
    }
    return rows_of(config, folder, timed, study, errors)


def beside_this_process() -> tune.PlacementGroupFactory:
    """What a trial's driver asks for: this machine, on which the sweep's folder is written.

    Its workers train wherever there is room. No CPU, which a small head might not have twice.
    """
    here = ray.get_runtime_context().get_node_id()
    address = next(one["NodeManagerAddress"] for one in ray.nodes() if one["NodeID"] == here)
    return tune.PlacementGroupFactory([{f"node:{address}": DRIVER_SHARE}])


def halving(config: SweepConfig) -> DominanceHalving:
    """When trials are compared, and what counts as a difference."""
    metric = config.finetune.task.headline()
    noise = config.noise
    if noise is None and metric.counted:
        # At 0.5 a share is least certain, and what trials will reach is not known yet.
        noise = share_noise(0.5, len(open_dataset(config.data, "val")))
    return DominanceHalving(
        rungs=rungs(config.grace_epochs, config.finetune.optim.epochs, config.reduction),
        reduction=config.reduction,
        noise=PLAIN_NOISE if noise is None else noise,
    )


def _trial(
    choice: dict[str, Any], sweep: SweepConfig, weights: dict[str, str], scratch: str
) -> None:
    """One trial: a Ray Train run whose evaluations Tune sees."""
    # Where the sweep's driver has its folders, for Ray may have been started with another TMPDIR.
    tempfile.tempdir = scratch
    point = dict(choice)
    name = point.pop(TRIAL)
    init = weights[pretraining(sweep, point).run] if weights else sweep.finetune.model.init
    config = trial(sweep, sweep.place, name, point, init)
    began = claim_run(config, f"{name} of {sweep.run}")
    place = run_folder(config)
    # When it is driven: hours are counted from it.
    FileJournal(place).event("restart" if began else "start")
    launch(config, place, callbacks=[TuneReportCallback()])
    # It is there where an earlier driver was killed just before the end.
    if not (place / EXPORT).exists():
        export(config, place)


def _name(trial: Any) -> str:
    return str(trial.config[TRIAL])


def rows_of(
    config: SweepConfig,
    folder: Path,
    timed: Timings,
    study: SweepStudy,
    errors: dict[str, str],
) -> list[dict[str, Any]]:
    """A row for each network that trials serve: point, last evaluation, speed, error."""
    metric = config.finetune.task.headline()
    names = ["epoch", *(one.name for one in config.finetune.task.metrics if not one.detail), "loss"]
    rows = []
    for frozen in study.trials():
        name = name_of(frozen)
        found = evaluations(trial_folder(folder, name), metric)
        figures = {key: found[-1][key] for key in names if key in found[-1]} if found else {}
        told = {"error": errors[name]} if name in errors else {}
        speeds = timings_at(config, timed, frozen.params)
        served = scores(config, frozen.params, found[-1]) if found else {}
        for ratio, timing in speeds.items():
            at = {"migration": ratio} if len(speeds) > 1 else {}
            score = {metric.name: served[ratio]} if served else {}
            # Of an elastic trial the other metrics belong to the first r.
            other = figures if ratio == next(iter(speeds)) else {"epoch": figures.get("epoch")}
            speed = timing.throughput.as_row() | {"ms": round(timing.latency_ms, 3)}
            rows.append({"trial": name, **frozen.params, **at, **other, **score, **told, **speed})
    return rows


class TrackTrials(tune.Callback):
    """One nested MLflow run a trial, found again by the sweep's key and its name."""

    _trackers: ClassVar[dict[str, Tracker]] = {}
    """Open runs of this process by trial: of the class, for Tune pickles and copies its objects."""

    def __init__(self, config: SweepConfig, key: str) -> None:
        self.config = config
        self.key = key

    @classmethod
    def close_all(cls, status: RunStatus) -> None:
        """Close the runs of all trials that have not ended."""
        while cls._trackers:
            cls._trackers.popitem()[1].finish(status)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open or reopen the trial's run."""
        tracker = self._trackers.setdefault(
            trial.trial_id, create_tracker(self.config.tracking, self.config.out)
        )
        tracker.start(
            f"{self.config.run}/{_name(trial)}",
            trial.config,
            key=join(self.key, TRIALS, _name(trial)),
            parent=self.key,
        )

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Log the metrics of an evaluation."""
        names = {metric.name for metric in self.config.finetune.task.metrics}
        figures = {
            f"val/{name}": float(value)
            for name, value in result.items()
            if name in names | {"loss", "epoch"}
        }
        self._trackers[trial.trial_id].log_metrics(figures, int(result["step"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the trial's run."""
        self._trackers.pop(trial.trial_id).finish("FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the trial's run as failed."""
        self._trackers.pop(trial.trial_id).finish("FAILED")
