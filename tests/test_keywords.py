"""Keyword arguments become settings, with errors that name field, value and hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itpn_ray.commands.predict.config import PredictConfig
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.keywords import call, settings
from itpn_ray.recipes import detect, finetune, tune
from itpn_ray.tuning.config import SweepConfig


def test_groups_keep_what_is_not_named() -> None:
    recipe = finetune.nano()
    found = settings(ExperimentConfig, {"optim": {"lr": 1e-3}, "data": Path("d")}, recipe)
    assert (found.optim.lr, found.optim.epochs, found.data) == (1e-3, recipe.optim.epochs, "d")


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"workers": 4}, "4"),
        ({"optim": {"epochs": 3}}, 3.0),
        ({"optim": {"lr": np.float32(0.5)}}, 0.5),
        ({"optim": {"global_batch": np.int64(8)}}, 8),
        ({"model": {"elastic_migration": [0, 0.2]}}, (0.0, 0.2)),
        ({"gpus": None}, None),
        ({"tracking": {"kind": "none"}}, "none"),
    ],
)
def test_values_become_the_types_of_their_fields(given: dict[str, Any], held: object) -> None:
    found: Any = settings(ExperimentConfig, given, finetune.nano())
    while isinstance(given, dict):
        [(name, given)] = given.items()
        found = getattr(found, name)
    assert found == held
    assert type(found) is type(held)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"optm": 1}, "optm = 1: is no setting. Did you mean 'optim'?"),
        ({"lr": 1.0}, 'lr = 1.0: is no setting. Write optim={"lr": ...}.'),
        ({"optim.lr": 1.0}, 'optim.lr = 1.0: is no setting. Write optim={"lr": ...}.'),
        ({"optim": {"lrr": 1}}, "optim.lrr = 1: is no setting. Did you mean 'lr'?"),
        ({"task": {"name": "x"}}, "task.name = 'x': is no setting."),
        ({"optim": {"lr": "1"}}, "optim.lr = '1': is text. Give a number."),
        ({"optim": {"lr": True}}, "optim.lr = True: is True or False. Give a number."),
        ({"optim": {"lr": -1}}, "optim.lr = -1.0: must be positive."),
        ({"optim": 3}, "optim = 3: is a whole number. Give a dict of settings."),
        ({"gpus": 1}, "gpus = 1: is a whole number. Give True or False or None."),
        ({"data": ["d"]}, "data = ['d']: is a list. Give text."),
        ({"model": {"elastic_migration": 0.1}}, "Give a list."),
        ({"tracking": {"kind": "x"}}, "tracking.kind = 'x': is text. Give 'mlflow' or 'none'."),
    ],
)
def test_what_is_no_setting_or_value_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(ExperimentConfig, given, finetune.nano())
    assert told in str(refused.value)


def test_groups_in_groups_are_those_of_their_task() -> None:
    space = ["optim.lr log 1e-4 3e-3"]
    given = {"finetune": {"optim": {"epochs": 2}}, "space": space}
    found = settings(SweepConfig, given, tune.nano())
    assert found.finetune.optim.epochs == 2
    assert found.space == tuple(space)
    boxes: Any = settings(ExperimentConfig, {"task": {"masks": False}}, detect.nano())
    assert not boxes.task.masks


def test_without_a_default_groups_have_their_own() -> None:
    found = settings(PredictConfig, {"weights": "w", "folder": "f", "ray": {"num_cpus": 3}})
    assert found.ray.num_cpus == 3


def test_a_call_is_recorded_as_python() -> None:
    told = call("finetune", "nano", data=Path("d"), optim={"lr": 0.1})
    assert told == "itpn_ray.finetune('nano', data='d', optim={'lr': 0.1})"
