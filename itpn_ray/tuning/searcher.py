"""The search and the scheduler as Ray Tune sees them: thin, the study and the rungs decide."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from itpn_ray.formatting import show_names
from itpn_ray.metrics import Metric
from itpn_ray.runs.journal import EVENTS, METRICS, FileJournal, read_lines
from itpn_ray.tuning.config import TRIALS, SweepConfig
from itpn_ray.tuning.scheduler import DominanceHalving, Offer
from itpn_ray.tuning.speed import Timings, scores, timings_at
from itpn_ray.tuning.study import SweepStudy

TRIAL = "trial"
"""Entry of a trial's configuration that holds its name."""
PRUNED = "pruned"
"""Event in the journal of a trial that was stopped, for others were better."""


def trial_folder(folder: Path, name: str) -> Path:
    """The run's folder of a trial."""
    return folder / TRIALS / name


def offers(
    config: SweepConfig, timed: Timings, point: dict[str, Any], figures: dict[str, Any]
) -> tuple[Offer, ...]:
    """The speeds that a trial offers, and how good it is at each; more is better."""
    metric = config.finetune.task.headline()
    sign = 1.0 if metric.higher_is_better else -1.0
    speeds = timings_at(config, timed, point)
    found = scores(config, point, figures)
    return tuple((speeds[r].throughput.images_per_s, sign * found[r]) for r in speeds)


def objectives(
    config: SweepConfig, timed: Timings, point: dict[str, Any], figures: dict[str, Any]
) -> tuple[float, float]:
    """What the search improves: the headline metric and images/s, means over the r served."""
    speeds = timings_at(config, timed, point).values()
    return (
        fmean(scores(config, point, figures).values()),
        fmean(one.throughput.images_per_s for one in speeds),
    )


def was_pruned(folder: Path, name: str) -> bool:
    """Whether an earlier driver or this one has stopped a trial."""
    events = read_lines(trial_folder(folder, name) / EVENTS)
    return any(event["event"] == PRUNED for event in events)


def evaluations(folder: Path, metric: Metric) -> list[dict[str, Any]]:
    """The evaluations of the run in a folder, in order."""
    records = read_lines(folder / METRICS)
    return [one for one in records if metric.name in one and one["split"] != "train"]


class StudySearcher(Searcher):
    """Takes points from the study, and tells it how trials end.

    It keeps nothing of its own that the study does not: Tune's snapshots of it are empty, and a new
    driver goes on from the study.
    """

    def __init__(self, config: SweepConfig, folder: Path, timed: Timings, study: SweepStudy):
        super().__init__()
        self._config = config
        self._folder = folder
        self._timed = timed
        self._study = study
        self._points: dict[str, tuple[str, dict[str, Any]]] = {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """The objectives are the study's."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The configuration of a trial: its point, and its name."""
        while taken := self._study.take():
            name, point = taken
            if was_pruned(self._folder, name):  # by a driver that could not tell the study any more
                self._study.prune(name)
                continue
            self._points[trial_id] = taken
            return {TRIAL: name, **point}
        return Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study: objectives, pruned or failed."""
        name, point = self._points[trial_id]
        metric = self._config.finetune.task.headline()
        if error or not result or metric.name not in result:
            self._study.fail(name)
        # Tune calls a trial that its scheduler stopped complete as well.
        elif was_pruned(self._folder, name):
            self._study.prune(name)
        else:
            self._study.complete(name, objectives(self._config, self._timed, point, result))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The scheduler looks at what is between."""

    def save(self, checkpoint_path: str) -> None:
        """See the class."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """See the class."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher, but the study is the search's state.
        return {}


class DominanceScheduler(FIFOScheduler):
    """Stops trials by `DominanceHalving`; what was reached before a kill is read from the trials'
    folders.
    """

    def __init__(
        self, config: SweepConfig, folder: Path, timed: Timings, halving: DominanceHalving
    ) -> None:
        super().__init__()
        self._config = config
        self._folder = folder
        self._timed = timed
        self._halving = halving

    def recall(self, points: dict[str, dict[str, Any]]) -> None:
        """Note what trials, by name and point, have reached in earlier processes."""
        metric = self._config.finetune.task.headline()
        for name, point in points.items():
            for found in evaluations(trial_folder(self._folder, name), metric):
                self._halving.record(name, found["epoch"], self._offers(point, found))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop or go on."""
        point = dict(trial.config)
        name = point.pop(TRIAL)
        better = self._halving.stopped_by(name, result["epoch"], self._offers(point, result))
        if not better:
            return TrialScheduler.CONTINUE
        # In the trial's own folder, where a later driver finds it.
        journal = FileJournal(trial_folder(self._folder, name))
        journal.event(PRUNED, epoch=result["epoch"], message=f"better: {show_names(better, 3)}")
        return TrialScheduler.STOP

    def _offers(self, point: dict[str, Any], figures: dict[str, Any]) -> tuple[Offer, ...]:
        return offers(self._config, self._timed, point, figures)
