"""Trials under Ray Tune: each is a Ray Train run, and ASHA stops the weak ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from itpn_ray.ray_runtime.start import environment
from itpn_ray.tracking import Tracker, create_tracker
from itpn_ray.tracking.base import RunStatus
from itpn_ray.training.claim import claim_run, run_folder
from itpn_ray.training.launch.ray_trainer import launch
from itpn_ray.tuning.config import SweepConfig, trial

DRIVER_CPUS = 0.01
"""What Ray reserves for a trial's driver, which only waits; 0 is refused."""


def run_trials(
    config: SweepConfig, folder: Path, weights: dict[float, str]
) -> list[dict[str, Any]]:
    """Run the trials, or take up those that a killed driver left.

    Args:
        config: the sweep.
        folder: the sweep's folder.
        weights: λ -> file of weights pre-trained with it.

    Returns:
        A dict a trial: ``trial``, ``feature_weight``, ``layer_decay``, ``migration``, ``epoch``,
        the figures of its last evaluation, and ``error`` where it failed.

    Raises:
        KeyboardInterrupt: Ctrl-C; the same call takes up the trials that have begun.
    """
    trainable = tune.with_resources(
        tune.with_parameters(_trial, sweep=config, folder=folder, weights=weights),
        {"CPU": DRIVER_CPUS},
    )
    metric = config.finetune.task.headline()
    storage = folder / "ray"
    place = str(storage / "tune")
    if tune.Tuner.can_restore(place):
        tuner = tune.Tuner.restore(
            place, trainable=trainable, resume_unfinished=True, restart_errored=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={
                "feature_weight": tune.choice(list(config.feature_weight)),
                "layer_decay": tune.uniform(*config.layer_decay),
                "migration": tune.choice(list(config.migration)),
            },
            tune_config=tune.TuneConfig(
                metric=metric.name,
                mode="max" if metric.higher_is_better else "min",
                num_samples=config.trials,
                # Seeded, so that a sweep killed before Tune's first snapshot draws the same trials.
                search_alg=BasicVariantGenerator(
                    random_state=config.seed, max_concurrent=config.concurrent
                ),
                scheduler=_scheduler(config),
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(storage),
                verbose=0,
                callbacks=[TrackTrials(config, folder)],
            ),
        )
    try:
        # Tune's own handler would return as if all trials had come to their end.
        with environment({"TUNE_DISABLE_SIGINT_HANDLER": "1"}):
            results = tuner.fit()
    except KeyboardInterrupt:
        TrackTrials.close_all("INTERRUPTED")
        raise
    names = [metric.name for metric in config.finetune.task.metrics if not metric.detail]
    return [_row(results[i], names) for i in range(len(results))]


def _trial(
    choice: dict[str, float], sweep: SweepConfig, folder: Path, weights: dict[float, str]
) -> None:
    """One trial: a Ray Train run whose evaluations Tune sees."""
    name = tune.get_context().get_trial_name()
    init = weights[choice["feature_weight"]]
    config = trial(sweep, str(folder), name, choice, init)
    claim_run(config, f"trial {name} of {sweep.run}")
    launch(config, run_folder(config), callbacks=[TuneReportCallback()])


def _scheduler(config: SweepConfig) -> ASHAScheduler:
    """ASHA over epochs of ours: Tune's own count of iterations restarts when a trial does."""
    longest = max(1, round(config.finetune.optim.epochs))
    return ASHAScheduler(
        time_attr="epoch",
        max_t=longest,
        grace_period=min(config.grace_epochs, longest),
        reduction_factor=config.reduction,
    )


def _name(trial: Any) -> str:
    return f"trial-{trial.trial_id.rsplit('_', 1)[-1]}"


def _row(result: Any, names: Sequence[str]) -> dict[str, Any]:
    """A trial: what was chosen, the named metrics of its last evaluation, its error."""
    figures = result.metrics or {}
    row = {"trial": Path(result.path).name, **(result.config or {})}
    row |= {name: figures[name] for name in ("epoch", *names, "loss") if name in figures}
    if result.error is not None:
        row["error"] = str(result.error).strip().splitlines()[-1]
    return row


class TrackTrials(tune.Callback):
    """One nested MLflow run a trial, found again by the trial's folder after a restart."""

    _trackers: ClassVar[dict[str, Tracker]] = {}
    """Open runs of this process by trial: of the class, for Tune pickles and copies its objects."""

    def __init__(self, config: SweepConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder

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
            key=str(self.folder / "trials" / _name(trial)),
            parent=str(self.folder),
        )

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Log the figures of an evaluation."""
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
