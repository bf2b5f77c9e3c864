"""The searcher and the scheduler as Ray Tune calls them, without Ray."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from itpn_ray.errors import ConfigError
from itpn_ray.evaluation.speed import Speed
from itpn_ray.recipes import tune
from itpn_ray.runs.journal import FileJournal
from itpn_ray.tuning.config import SweepConfig
from itpn_ray.tuning.scheduler import DominanceHalving
from itpn_ray.tuning.searcher import (
    DominanceScheduler,
    StudySearcher,
    objectives,
    offers,
    trial_folder,
    was_pruned,
)
from itpn_ray.tuning.speed import (
    FILE,
    Timing,
    broken_constraints,
    check_reachable,
    judge_point,
    key_of,
    networks,
    read_timings,
    shaping,
)
from itpn_ray.tuning.sweep import open_study
from itpn_ray.tuning.trials import rows_of


def config(**changes) -> SweepConfig:
    space = ("optim.layer_decay uniform 0.6 1", "model.migration choice 0 0.2")
    return dataclasses.replace(tune.nano(), data="data", trials=3, space=space, **changes)


def timing(images_per_s: float) -> Timing:
    speed = Speed(images_per_s=images_per_s, low=images_per_s, high=images_per_s, timings=7)
    return Timing(throughput=speed, latency_ms=1000 / images_per_s)


def timed(sweep: SweepConfig) -> dict[str, Timing]:
    """100 images/s, and 150 at r = 0.2."""
    return {key_of(one): timing(100 + 250 * one.model.migration) for one in networks(sweep)}


def test_trials_are_told_to_the_study(tmp_path: Path) -> None:
    sweep = config()
    study = open_study(sweep, tmp_path, timed(sweep))
    searcher = StudySearcher(sweep, tmp_path, timed(sweep), study)
    assert searcher.set_search_properties(None, None, {})
    points = [searcher.suggest(number) for number in "abc"]
    assert [point["trial"] for point in points] == ["trial-000", "trial-001", "trial-002"]
    assert searcher.suggest("d") == Searcher.FINISHED
    searcher.on_trial_complete("a", {"top1": 0.5, "epoch": 4})
    FileJournal(trial_folder(tmp_path, "trial-001")).event("pruned", epoch=2)
    searcher.on_trial_complete("b", {"top1": 0.2, "epoch": 2})
    searcher.on_trial_complete("c", error=True)
    states = [one.state for one in study.trials()]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert study.trials()[0].values == [0.5, 100 + 250 * points[0]["migration"]]


def test_a_trial_that_was_stopped_before_a_kill_is_not_trained_again(tmp_path: Path) -> None:
    sweep = config()
    first = open_study(sweep, tmp_path, timed(sweep))
    name, _ = first.take()
    FileJournal(trial_folder(tmp_path, name)).event("pruned", epoch=2)
    again = open_study(sweep, tmp_path, timed(sweep))
    searcher = StudySearcher(sweep, tmp_path, timed(sweep), again)
    assert searcher.suggest("x")["trial"] == "trial-001"
    assert again.trials()[0].state == TrialState.PRUNED


def test_the_scheduler_stops_by_what_is_as_fast_and_recalls_what_was_reached(
    tmp_path: Path,
) -> None:
    sweep = config()
    halving = DominanceHalving(rungs=(2.0,), reduction=2, noise=0.01)
    scheduler = DominanceScheduler(sweep, tmp_path, timed(sweep), halving)
    slow, fast = ({"layer_decay": 0.9, "migration": r} for r in (0.0, 0.2))
    journal = FileJournal(trial_folder(tmp_path, "trial-000"))
    journal.metrics("val", 10, 2.0, {"top1": 0.8})
    scheduler.recall({"trial-000": slow})

    def heard(name: str, point: dict, top1: float) -> str:
        trial = types.SimpleNamespace(config={"trial": name, **point})
        return scheduler.on_trial_result(None, trial, {"epoch": 2.0, "top1": top1})

    assert heard("trial-001", fast, 0.7) == TrialScheduler.CONTINUE
    assert heard("trial-002", slow, 0.6) == TrialScheduler.STOP
    assert was_pruned(tmp_path, "trial-002")
    assert not was_pruned(tmp_path, "trial-001")


def test_constraints_are_known_before_training() -> None:
    sweep = config(at_least=120.0, at_most_ms=8.0)
    assert broken_constraints(sweep, timing(150.0)) == pytest.approx(
        {"images/s": -30.0, "ms": 1000 / 150 - 8}
    )
    check_reachable(sweep, timed(sweep))
    with pytest.raises(ConfigError, match=r"at_least = 200.*best does 150 images/s and 6\.67 ms"):
        check_reachable(config(at_least=200.0), timed(sweep))
    with pytest.raises(ConfigError, match=r"at_most_ms = 2"):
        check_reachable(config(at_most_ms=2.0), timed(sweep))
    with pytest.raises(ConfigError, match=r"at_most_ms = 2\.0: is kept by none"):
        check_reachable(config(at_least=120.0, at_most_ms=2.0), timed(sweep))


def test_two_constraints_that_no_network_keeps_at_once_are_both_named() -> None:
    sweep = config(at_least=120.0, at_most_ms=8.0)
    first, second = (key_of(one) for one in networks(sweep))
    fast = dataclasses.replace(timing(150.0), latency_ms=9.0)
    known = {first: fast, second: timing(130.0)}
    check_reachable(sweep, known)
    known[second] = dataclasses.replace(timing(100.0), latency_ms=7.0)
    told = r"at_least = 120\.0: is kept together with at_most_ms = 8 by none of 2"
    with pytest.raises(ConfigError, match=told):
        check_reachable(sweep, known)


def test_the_nearest_of_a_trials_networks_is_told_by_fractions() -> None:
    elastic = dataclasses.replace(tune.nano().finetune.model, elastic_migration=(0.0, 0.4))
    sweep = config(at_least=1000.0, at_most_ms=1.0)
    finetune = dataclasses.replace(sweep.finetune, model=elastic)
    sweep = dataclasses.replace(
        sweep, finetune=finetune, space=("optim.layer_decay uniform 0.6 1",)
    )
    slow, quick = (key_of(one) for one in networks(sweep))
    # 20 images/s are 2 % of what is asked for, and 1.5 ms are 150 % of it.
    known = {
        slow: dataclasses.replace(timing(980.0), latency_ms=1.0),
        quick: dataclasses.replace(timing(1000.0), latency_ms=2.5),
    }
    assert judge_point(sweep, known, {"layer_decay": 0.8}) == {"images/s": 20.0, "ms": 0.0}


def test_what_decides_the_speed_is_chosen_from_values() -> None:
    sweep = config()
    assert [one.path for one in shaping(sweep.dimensions, sweep.finetune.task)] == [
        "model.migration"
    ]
    assert len(networks(sweep)) == 2
    ranged = dataclasses.replace(sweep, space=("model.migration uniform 0 0.4",))
    with pytest.raises(ConfigError, match="decides the speed"):
        shaping(ranged.dimensions, ranged.finetune.task)


def test_timings_are_kept(tmp_path: Path) -> None:
    assert read_timings(tmp_path / FILE) == {}
    known = {"a": timing(100.0)}
    plain = {key: dataclasses.asdict(one) for key, one in known.items()}
    (tmp_path / FILE).write_text(json.dumps(plain))
    assert read_timings(tmp_path / FILE) == known


def test_an_elastic_trial_offers_every_ratio(tmp_path: Path) -> None:
    plain = config()
    model = dataclasses.replace(plain.finetune.model, elastic_migration=(0.0, 0.2))
    sweep = dataclasses.replace(
        plain,
        space=("optim.layer_decay uniform 0.6 1",),
        finetune=dataclasses.replace(plain.finetune, model=model),
        at_least=120.0,
    )
    known = timed(sweep)
    figures = {"top1": 0.6, "top1_r0.2": 0.5}
    point = {"layer_decay": 0.8}
    assert len(known) == 2
    assert offers(sweep, known, point, figures) == ((100.0, 0.6), (150.0, 0.5))
    assert objectives(sweep, known, point, figures) == pytest.approx((0.55, 125.0))
    assert judge_point(sweep, known, point) == {"images/s": -30.0}  # kept by one of the two
    study = open_study(sweep, tmp_path, known)
    name, point = study.take()
    FileJournal(trial_folder(tmp_path, name)).metrics("val", 8, 2.0, figures)
    rows = rows_of(sweep, tmp_path, known, study, {})
    told = [(row["migration"], row["top1"], row["images_per_s"]) for row in rows]
    assert told == [(0.0, 0.6, 100.0), (0.2, 0.5, 150.0)]
