"""Recipes of several labels an image: those of classification, with another loss."""

from __future__ import annotations

import dataclasses

import pytest

from itpn_ray.experiment import from_dict, to_dict
from itpn_ray.recipes import finetune, multilabel, named, recipes_of
from itpn_ray.tasks.multilabel.config import MultiLabel

NAMES = [name for name in multilabel.RECIPES if name != "nano_multilabel"]


def test_they_are_recipes_of_finetuning() -> None:
    assert recipes_of("finetune") == {**finetune.RECIPES, **multilabel.RECIPES}


@pytest.mark.parametrize("name", NAMES)
def test_they_are_those_of_classification_but_for_the_task(name: str) -> None:
    config = named(multilabel.RECIPES, name)
    base = named(finetune.RECIPES, name.removesuffix("_multilabel"))
    assert config.task == MultiLabel()
    assert config == dataclasses.replace(base, run=f"{name}_ft", task=config.task)
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize("name", NAMES)
def test_their_docstrings_say_what_they_take(name: str) -> None:
    lines = [line.strip() for line in (multilabel.RECIPES[name].__doc__ or "").splitlines()]
    told = dict(line.split(": ", 1) for line in lines[2:] if line)
    assert list(told) == ["Command", "Hardware", "Expected", "Source"]
    assert told["Command"] == f"itpn-ray finetune {name} --data DATA --model.init WEIGHTS"
