"""Switches may be written in every way that people and documentation write them."""

from __future__ import annotations

import dataclasses
import typing
from itertools import product
from typing import Any

import pytest

from itpn_ray.arguments import WORDS, options, parse, spell_switches
from itpn_ray.commands.evaluate.config import EvaluateConfig
from itpn_ray.commands.plan.config import PlanConfig
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.recipes import detect, finetune, named

NAMES = {"gpus", "task.masks", "init-pyramid"}
DETECT = named(detect.RECIPES, "nano")


@pytest.mark.parametrize(
    ("words", "spelled"),
    [
        ("--gpus", "--gpus True"),
        ("--no-gpus", "--gpus False"),
        ("--gpus --run a", "--gpus True --run a"),
        ("--gpus folder", "--gpus True folder"),
        ("--task.masks=off", "--task.masks False"),
        ("--no-task.masks", "--task.masks False"),
        ("--task.no-masks", "--task.masks False"),
        ("--no-init_pyramid", "--init-pyramid False"),
        ("--init_pyramid no", "--init_pyramid False"),
        ("--gpus=maybe", "--gpus maybe"),
        ("--no-gpus=true", "--no-gpus=true"),
        ("--run true --workers 1 --no-run", "--run true --workers 1 --no-run"),
    ],
)
def test_a_switch_is_spelled_out(words: str, spelled: str) -> None:
    assert spell_switches(words.split(), NAMES) == spelled.split()


@pytest.mark.parametrize(("word", "case"), list(product(WORDS, (str.lower, str.upper, str.title))))
def test_every_word_in_any_case(word, case) -> None:
    expected = WORDS[word] == "True"
    given = parse(ExperimentConfig, ["--task.masks", case(word)], "detect nano", DETECT)
    assert given.task.masks is expected


@pytest.mark.parametrize("default", [DETECT, named(finetune.RECIPES, "nano")])
def test_every_switch_of_a_run(default: ExperimentConfig) -> None:
    names = [
        name
        for name, kind in options(ExperimentConfig, default)
        if bool in (kind, *typing.get_args(kind))
    ]
    assert {"gpus", "model.partial-init", "ray.dashboard"} <= set(names)
    for name in names:
        for words in ([f"--no-{name}"], [f"--{name}", "false"]):
            found: Any = parse(ExperimentConfig, words, "run", default)
            for field in name.replace("-", "_").split("."):
                # Placement's options have no prefix.
                found = getattr(found if hasattr(found, field) else found.placement, field)
            assert found is False, words


def test_switches_of_a_run_inside_other_settings() -> None:
    plan = parse(PlanConfig, ["--no-task.masks"], "plan", PlanConfig(experiment=DETECT))
    assert not plan.experiment.task.masks


def test_a_switch_before_a_folder_does_not_take_it() -> None:
    found = parse(EvaluateConfig, ["--gpu", "out/fine", "--data", "d"], "evaluate")
    assert (found.gpu, found.weights) == (True, "out/fine")


@dataclasses.dataclass
class Unsure:
    fast: bool | None = None


def test_options_that_may_be_none_are_switches_too() -> None:
    words = ([], ["--fast"], ["--no-fast"], ["--fast", "off"])
    assert [parse(Unsure, w, "x").fast for w in words] == [None, True, False, False]


@pytest.mark.parametrize("words", [["--gpus", "maybe"], ["--gpus=maybe"], ["--no-run"]])
def test_what_is_no_switch_or_no_word_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(ExperimentConfig, words, "detect nano", DETECT)
    assert stop.value.code == 2
