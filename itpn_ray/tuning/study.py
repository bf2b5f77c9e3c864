"""The sweep's trials in an Optuna study, kept in the sweep's folder: optuna-dashboard opens it.

The study is the sweep's memory: a driver that was killed leaves trials in it that run, and the next
one hands them out again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from itpn_ray.errors import ConfigError
from itpn_ray.tuning.space import Dimension, Value, grid, quasi_random, random_points

FILE = "study.sqlite"
NAME = "sweep"
DESIGN = "design"
"""Attribute of trials whose point was planned before any result: its number among those."""
RETRIED = "retry of"
WARM = "warm start"
MOST_REFUSED = 200
"""Points in a row that break a constraint before the search is taken to be at its end."""


class Judge(Protocol):
    """What is known of a point before it is trained."""

    def __call__(self, point: Mapping[str, Value], /) -> dict[str, float]:
        """Constraints by name; broken above 0."""


class SweepStudy:
    """Asks for points and is told what became of them.

    Args:
        folder: of the sweep.
        dimensions: the space.
        higher_is_better: of the headline metric, the first objective; the second is images/s.
        search: one of `itpn_ray.tuning.config.SEARCHES`.
        trials: how many there are to be.
        planned: how many of them are quasi-random, before TPE goes by results.
        seed: of all draws.
        judge: constraints of a point.

    Attributes:
        design: the points that are planned before any result.
    """

    def __init__(
        self,
        folder: Path,
        dimensions: Sequence[Dimension],
        *,
        higher_is_better: bool,
        search: str,
        trials: int,
        planned: int,
        seed: int,
        judge: Judge,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {one.name: distribution(one) for one in dimensions}
        self._judge = judge
        self._planned = planned
        self._seed = seed
        # Names that this driver has handed out: what else is running was an earlier driver's.
        self._given: set[str] = set()
        self.design = _design(dimensions, search, trials, planned, seed, judge)
        # A grid has no more points than combinations.
        self._most = min(trials, len(self.design)) if search == "grid" else trials
        self._searches = search == "tpe"
        self.study = optuna.create_study(
            storage=storage_uri(folder),
            study_name=NAME,
            directions=["maximize" if higher_is_better else "minimize", "maximize"],
            load_if_exists=True,
        )
        self._retry_failed()

    def take(self) -> tuple[str, dict[str, Value]] | None:
        """Name and point of the next trial; None where there are enough.

        First those that an earlier driver left, then planned ones, then what the search asks for.
        """
        # Trials that a killed driver had begun go on first.
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if name_of(frozen) not in self._given:
                return self._give(frozen)
        for _ in range(MOST_REFUSED):
            asked = self._ask()
            if asked is None:
                return None
            if asked.state == TrialState.RUNNING:
                return self._give(asked)
        return None

    def complete(self, name: str, values: tuple[float, float]) -> None:
        """A trial has come to its end, with these objectives."""
        # An earlier driver may have told it before it was killed.
        self.study.tell(self._number(name), values, skip_if_finished=True)

    def prune(self, name: str) -> None:
        """A trial was stopped, for others were better."""
        self.study.tell(self._number(name), state=TrialState.PRUNED, skip_if_finished=True)

    def fail(self, name: str) -> None:
        """A trial failed."""
        self.study.tell(self._number(name), state=TrialState.FAIL, skip_if_finished=True)

    def trials(self) -> list[FrozenTrial]:
        """The sweep's own trials, each at its last attempt, in the order of their names."""
        # Attempts come in order, so that the last of a name stays.
        found = {name_of(one): one for one in self.study.get_trials(deepcopy=False) if _own(one)}
        return [found[name] for name in sorted(found)]

    def _give(self, frozen: FrozenTrial) -> tuple[str, dict[str, Value]]:
        self._given.add(name_of(frozen))
        return name_of(frozen), dict(frozen.params)

    def _ask(self) -> FrozenTrial | None:
        """A new trial, told at once where its point breaks a constraint; None: enough of them."""
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting:
            if len(self.trials()) >= self._most:
                return None
            # Counted in the study, so that a new driver goes on where the last one was.
            # By their numbers, which later attempts keep.
            planned = len(
                {
                    one.user_attrs[DESIGN]
                    for one in self.study.get_trials(deepcopy=False)
                    if DESIGN in one.user_attrs
                }
            )
            if planned < len(self.design):
                self.study.enqueue_trial(self.design[planned], user_attrs={DESIGN: planned})
            elif not self._searches:
                return None
        # A sampler a trial, so that a driver that was killed draws what it would have drawn.
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=min(10, self._planned),
            # Sweeps of neighbouring seeds have no sampler's seed in common before 100,003 trials.
            seed=(self._seed * 100_003 + number) % 2**31,
        )
        trial = self.study.ask(self._distributions)
        broken = self._judge(trial.params)
        for name, excess in broken.items():
            trial.set_constraint(name, excess)
        if any(excess > 0 for excess in broken.values()):
            self.study.tell(trial, state=TrialState.PRUNED)
        # Read again, for what was told has changed its state.
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _number(self, name: str) -> int:
        found = [one for one in self.study.get_trials(deepcopy=False) if name_of(one) == name]
        return found[-1].number

    def _retry_failed(self) -> None:
        """Queue the trials again whose last attempt failed, as what they were before."""
        for frozen in self.trials():
            if frozen.state == TrialState.FAIL:
                attributes = {**frozen.user_attrs, RETRIED: name_of(frozen)}
                self.study.enqueue_trial(frozen.params, user_attrs=attributes)


def storage_uri(folder: Path) -> str:
    """Where the study of a sweep is kept, as Optuna and its dashboard take it."""
    return f"sqlite:///{folder / FILE}"


def distribution(one: Dimension) -> BaseDistribution:
    """A dimension in Optuna's words."""
    if one.kind == "choice":
        return CategoricalDistribution(one.values)
    low, high = one.ends
    if one.whole:
        return IntDistribution(int(low), int(high), log=one.kind == "log")
    return FloatDistribution(low, high, log=one.kind == "log")


def name_of(frozen: FrozenTrial) -> str:
    """The trial's name, which its later attempts keep."""
    return str(frozen.user_attrs.get(RETRIED, f"trial-{frozen.number:03d}"))


def warm_start(study: SweepStudy, earlier: Path) -> int:
    """Let the search begin with what another sweep has found; how many trials those are.

    Raises:
        ConfigError: it is no sweep's folder, or its space or metric is another one.
    """
    # A sweep that goes on has taken them over already.
    if any(WARM in one.user_attrs for one in study.study.get_trials(deepcopy=False)):
        return 0
    if not (earlier / FILE).is_file():
        raise ConfigError(
            "warm_start", str(earlier), "is no sweep's folder", "Give OUT/RUN of an earlier tune"
        )
    before = optuna.load_study(study_name=NAME, storage=storage_uri(earlier))
    done = before.get_trials(states=(TrialState.COMPLETE,))
    spaces = [one.distributions for one in done]
    own = study._distributions
    if before.directions != study.study.directions or any(space != own for space in spaces):
        raise ConfigError(
            "warm_start", str(earlier), "searched another space", "Repeat its --space options"
        )
    for one in done:
        attributes = {WARM: str(earlier)}
        study.study.add_trial(
            optuna.trial.create_trial(
                params=one.params,
                distributions=one.distributions,
                values=one.values,
                user_attrs=attributes,
            )
        )
    return len(done)


def _own(frozen: FrozenTrial) -> bool:
    """Whether a trial was trained, or is to be: not another sweep's, and within constraints."""
    refused = any(excess > 0 for excess in frozen.constraints.values())
    return WARM not in frozen.user_attrs and not refused


def _design(
    dimensions: Sequence[Dimension],
    search: str,
    trials: int,
    planned: int,
    seed: int,
    judge: Judge,
) -> list[dict[str, Value]]:
    """The points that are planned before any result, as far as they keep the constraints."""
    if search == "grid":
        points = grid(dimensions)
    else:
        draw: Callable[..., list[dict[str, Value]]] = (
            random_points if search == "random" else quasi_random
        )
        # Many more than trials, for the constraints may refuse most of them.
        points = draw(dimensions, 100 * trials, seed)
    allowed = (point for point in points if all(v <= 0 for v in judge(point).values()))
    return list(itertools.islice(allowed, planned if search == "tpe" else trials))
