"""The study behind a sweep: what it asks for, what it remembers, what it refuses."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from itpn_ray.errors import ConfigError
from itpn_ray.tuning.space import Dimension, quasi_random
from itpn_ray.tuning.study import DESIGN, NAME, SweepStudy, storage_uri, warm_start

SPACE = (
    Dimension(name="lr", stage="finetune", path="optim.lr", kind="log", values=(1e-4, 1e-2)),
    Dimension(
        name="migration",
        stage="finetune",
        path="model.migration",
        kind="choice",
        values=(0.0, 0.2, 0.4),
    ),
)


def study(folder: Path, **changes) -> SweepStudy:
    settings = {
        "higher_is_better": True,
        "search": "tpe",
        "trials": 6,
        "planned": 3,
        "seed": 0,
        "judge": lambda point: {},
    }
    return SweepStudy(folder, SPACE, **(settings | changes))


def run_all(found: SweepStudy) -> list[dict]:
    points = []
    while taken := found.take():
        name, point = taken
        points.append(point)
        found.complete(name, (0.5 + point["lr"], 100 * (1 + point["migration"])))
    return points


def test_planned_points_come_first_and_then_as_many_as_are_asked_for(tmp_path: Path) -> None:
    found = study(tmp_path)
    points = run_all(found)
    assert points[:3] == quasi_random(SPACE, 3, 0)
    assert [one.number for one in found.trials()] == list(range(6))
    assert {one.state for one in found.trials()} == {TrialState.COMPLETE}
    loaded = optuna.load_study(study_name=NAME, storage=storage_uri(tmp_path))
    assert len(loaded.trials) == 6  # what optuna-dashboard sees
    assert study(tmp_path).take() is None
    assert len(run_all(study(tmp_path, trials=8))) == 2  # extended


def test_a_killed_driver_leaves_trials_that_are_handed_out_again(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = run_all(study(whole))
    first = study(tmp_path)
    name, point = first.take()
    first.complete(name, (0.5 + point["lr"], 100 * (1 + point["migration"])))
    left = [first.take(), first.take()]
    again = study(tmp_path)
    assert [again.take(), again.take()] == left
    for name, point in left:
        again.complete(name, (0.5 + point["lr"], 100 * (1 + point["migration"])))
    assert [point, *run_all(again)][1:] == expected[3:]


def test_a_failed_trial_is_run_again_under_its_name(tmp_path: Path) -> None:
    first = study(tmp_path, trials=2)
    taken, other = first.take(), first.take()
    first.fail(taken[0])
    first.complete(other[0], (0.5, 100.0))
    assert first.take() is None
    again = study(tmp_path, trials=2)
    assert again.take() == taken
    again.complete(taken[0], (0.6, 100.0))
    assert again.take() is None
    assert [one.state for one in again.trials()] == [TrialState.COMPLETE] * 2
    # Planned as before: it counts for importances, and takes no other planned point's place.
    assert [one.user_attrs[DESIGN] for one in again.trials()] == [0, 1]
    extended = study(tmp_path, trials=3)
    assert run_all(extended) == extended.design[2:3]


def test_stopped_trials_are_told_as_pruned(tmp_path: Path) -> None:
    found = study(tmp_path)
    name, _ = found.take()
    found.prune(name)
    assert found.trials()[0].state == TrialState.PRUNED
    assert len(run_all(found)) == 5


@pytest.mark.parametrize("search", ["tpe", "quasi", "random", "grid"])
def test_what_breaks_a_constraint_is_never_trained(tmp_path: Path, search: str) -> None:
    space = SPACE if search != "grid" else SPACE[1:]
    found = SweepStudy(
        tmp_path,
        space,
        higher_is_better=True,
        search=search,
        trials=12,
        planned=4,
        seed=1,
        judge=lambda point: {"images/s": 0.15 - point["migration"]},
    )
    ratios = []
    while taken := found.take():
        ratios.append(taken[1]["migration"])
        found.complete(taken[0], (0.5, 100.0))
    assert len(ratios) == (2 if search == "grid" else 12)
    assert 0.0 not in ratios
    refused = [one for one in found.study.trials if one.constraints.get("images/s", 0) > 0]
    assert all(one.state == TrialState.PRUNED for one in refused)


def test_a_lower_metric_may_be_the_better_one(tmp_path: Path) -> None:
    directions = study(tmp_path, higher_is_better=False).study.directions
    assert [one.name for one in directions] == ["MINIMIZE", "MAXIMIZE"]


def test_a_warm_start_knows_earlier_results_and_does_not_count_them(tmp_path: Path) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    before.mkdir()
    now.mkdir()
    run_all(study(before))
    found = study(now)
    assert warm_start(found, before) == 6
    assert warm_start(found, before) == 0
    assert found.trials() == []
    assert len(run_all(found)) == 6
    with pytest.raises(ConfigError, match="is no sweep's folder"):
        warm_start(study(before), tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="another space"):
        warm_start(study(other, higher_is_better=False), before)
