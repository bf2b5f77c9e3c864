"""The space of a sweep: paths, kinds, values, and the points drawn from it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from itpn_ray.checks import within
from itpn_ray.errors import ConfigError
from itpn_ray.recipes import tune
from itpn_ray.tuning.config import SweepConfig, pretraining, settings_digest, trial
from itpn_ray.tuning.space import (
    Dimension,
    applied,
    grid,
    quasi_random,
    random_points,
    spell_space,
)


def sweep(*space: str) -> SweepConfig:
    return dataclasses.replace(tune.nano(), data="data", space=space)


def only(*space: str) -> Dimension:
    return sweep(*space).dimensions[0]


def test_words_of_the_command_line() -> None:
    words = "--run a --space.optim.lr log 1e-4 3e-3 --trials 4 --space.task.mixup=choice 0 1"
    spelled = ["--space", "optim.lr log 1e-4 3e-3", "task.mixup choice 0 1"]
    assert spell_space(words.split()) == ["--run", "a", "--trials", "4", *spelled]
    assert spell_space(["--run", "a"]) == ["--run", "a"]


@pytest.mark.parametrize(
    ("text", "stage", "values"),
    [
        ("optim.lr log 1e-4 3e-3", "finetune", (1e-4, 3e-3)),
        ("pretrain.optim.lr choice 1e-4 3e-3", "pretrain", (1e-4, 3e-3)),
        ("task.feature-weight choice 0 0.3 1", "pretrain", (0.0, 0.3, 1.0)),
        ("task.mixup choice 0 0.8", "finetune", (0.0, 0.8)),
        ("model.layer_scale choice none 0.1", "finetune", (None, 0.1)),
        ("model.relative_position choice true False", "finetune", (True, False)),
        ("augment.policy choice none rand_augment", "finetune", ("none", "rand_augment")),
        ("optim.global_batch choice 32 64", "finetune", (32, 64)),
    ],
)
def test_a_path_finds_its_stage_and_its_type(text: str, stage: str, values: tuple) -> None:
    found = only(text)
    assert (found.stage, found.values) == (stage, values)
    assert [type(value) for value in found.values] == [type(value) for value in values]


def test_names_are_short_where_they_tell_apart() -> None:
    names = [
        one.name
        for one in sweep(
            "optim.lr log 1e-4 1e-3", "pretrain.optim.lr choice 1e-4 1e-3", "task.mixup choice 0 1"
        ).dimensions
    ]
    assert names == ["finetune.optim.lr", "pretrain.optim.lr", "mixup"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optim.lrr log 1 2", r"Did you mean 'optim\.lr'"),
        ("finetune.task.feature_weight choice 0 1", "is no field"),
        ("optim.lr lin 1 2", "is not known"),
        ("optim.lr", "is not PATH KIND VALUES"),
        ("", "is not PATH KIND VALUES"),
        ("optim.lr choice fast slow", "is no value of the field, which is a number"),
        ("optim.lr choice nan 1e-3", "is no value of the field"),
        ("model.gathering choice maybe true", "which is True or False"),
        ("optim.lr uniform 2e-3 1e-3", "is no range"),
        ("optim.lr uniform 1e-3 2e-3 3e-3", "is no range"),
        ("augment.policy uniform none rand_augment", "is no range"),
        ("optim.lr log 0 1", "has no logarithm"),
        ("optim.lr choice 1e-3 0.001", "names a value twice"),
        ("pretrain.optim.lr log 1e-4 1e-3", "a pre-training of its own"),
        ("run choice a b", "is set by the sweep itself"),
        ("model.init choice a b", "is set by the sweep itself"),
        ("optim.layer_decay uniform 0.6 1.4", r"must lie in \[0\.01, 1\]"),
        ("task.feature_weight choice -1 0", "must not be negative"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        sweep(text)


def test_a_field_varies_once() -> None:
    with pytest.raises(ConfigError, match="twice"):
        sweep("optim.lr log 1e-4 1e-3", "finetune.optim.lr choice 1e-3 1e-4")
    with pytest.raises(ConfigError, match="is empty"):
        sweep()


@pytest.mark.parametrize("draw", [quasi_random, random_points])
def test_drawn_points(draw) -> None:
    space = sweep(
        "optim.lr log 1e-4 1e-2",
        "optim.global_batch uniform 2 4",
        "model.migration choice 0 0.2",
    ).dimensions
    points = draw(space, 60, 3)
    assert draw(space, 7, 3) == points[:7]
    assert draw(space, 7, 4) != points[:7]
    assert all(1e-4 <= point["lr"] < 1e-2 for point in points)
    assert {point["global_batch"] for point in points} == {2, 3, 4}
    low = sum(point["lr"] < 1e-3 for point in points)
    assert 20 <= low <= 40  # half of the range of a logarithm lies below its middle


def test_quasi_random_points_fill_evenly() -> None:
    space = sweep("optim.layer_decay uniform 0.5 1", "model.migration choice 0 0.2").dimensions
    points = quasi_random(space, 32, 0)
    for low in (0.5, 0.625, 0.75, 0.875):
        assert sum(low <= point["layer_decay"] < low + 0.125 for point in points) in (7, 8, 9)
    assert sum(point["migration"] == 0 for point in points) in range(13, 20)


def test_a_grid_has_every_combination() -> None:
    space = sweep("task.mixup choice 0 0.8", "model.migration choice 0 0.1 0.2").dimensions
    assert len(grid(space)) == len({tuple(p.values()) for p in grid(space)}) == 6
    with pytest.raises(ConfigError, match="has no grid"):
        grid(sweep("optim.lr log 1e-4 1e-3").dimensions)


def test_settings_at_a_point(prepared: str) -> None:
    config = sweep("task.feature_weight choice 0 0.7", "optim.lr log 1e-4 1e-3")
    config = dataclasses.replace(config, data=prepared)
    point = {"feature_weight": 0.7, "lr": 5e-4}
    run = trial(config, "out/tune", "trial-000", point, "weights")
    assert (run.optim.lr, run.model.init, run.run) == (5e-4, "weights", "trial-000")
    before = pretraining(config, point)
    assert before.task.feature_weight == 0.7
    assert before.optim == config.pretrain.optim
    assert applied(config.finetune, [], {}) == config.finetune


def test_trials_share_a_pretraining_by_its_settings(prepared: str, tmp_path: Path) -> None:
    config = sweep("task.feature_weight choice 0 0.7", "optim.lr log 1e-4 1e-3")
    config = dataclasses.replace(config, data=prepared)
    first = pretraining(config, {"feature_weight": 0.7, "lr": 5e-4})
    again = dataclasses.replace(
        config, run="other", pretrain=dataclasses.replace(config.pretrain, cpus_per_worker=3)
    )
    assert pretraining(again, {"feature_weight": 0.7, "lr": 1e-4}).run == first.run
    assert pretraining(config, {"feature_weight": 0.0, "lr": 5e-4}).run != first.run
    longer = dataclasses.replace(
        first, optim=dataclasses.replace(first.optim, epochs=first.optim.epochs + 1)
    )
    assert settings_digest(longer) != settings_digest(first)
    moved = shutil.copytree(prepared, tmp_path / "moved")
    assert settings_digest(dataclasses.replace(first, data=str(moved))) == settings_digest(first)


def test_weights_that_are_given_leave_no_pretraining_to_vary() -> None:
    config = sweep("optim.lr log 1e-4 1e-3")
    given = dataclasses.replace(
        config.finetune, model=dataclasses.replace(config.finetune.model, init="weights")
    )
    assert not dataclasses.replace(config, finetune=given).pretrains
    with pytest.raises(ConfigError, match="leaves no pre-training"):
        dataclasses.replace(config, finetune=given, space=("task.feature_weight choice 0 1",))


def test_a_field_is_not_taken_for_a_longer_one_that_begins_alike() -> None:
    (one,) = sweep("model.init_key choice model model_ema").dimensions
    assert one.path == "model.init_key"
    assert within("optim.micro_batch", ("optim.micro_batch",))
    assert within("checkpoint.every_steps", ("checkpoint",))
    assert not within("model.init_key", ("model.init", "model.init_k"))
