"""Recipes of rotated detection: their numbers, docstrings, and networks on the meta device."""

from __future__ import annotations

import pytest
import torch

from itpn_ray.data.config import RotatedAugmentConfig
from itpn_ray.experiment import from_dict, to_dict
from itpn_ray.recipes import detect, named, recipes_of, rotated
from itpn_ray.recipes.dense import SIZES
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.rotated_detection.config import RotatedDetection
from itpn_ray.tasks.rotated_detection.task import RotatedDetectionTask

PAPER = [f"{network}_rotated_1x" for network in SIZES]


def test_they_are_recipes_of_detection() -> None:
    assert set(rotated.RECIPES) == {"nano_rotated", *PAPER}
    assert recipes_of("detect") == {**detect.RECIPES, **rotated.RECIPES}


@pytest.mark.parametrize("name", PAPER)
def test_numbers(name: str) -> None:
    """mmrotate's 1x of DOTA: 12 epochs with drops at 8 and 11, clipping at 35, 1024 pixels."""
    config = named(rotated.RECIPES, name)
    optim = config.optim
    assert (optim.epochs, optim.clip_norm, optim.warmup_steps) == (12, 35.0, 500)
    assert [round(share * 12, 6) for share in optim.lr_milestones] == [8, 11]
    assert isinstance(config.task, RotatedDetection)
    assert (config.task.short_side, config.task.long_side) == (1024, 1024)
    assert config.augment == RotatedAugmentConfig()
    assert config.run == name
    assert from_dict(to_dict(config)) == config
    share, rest = divmod(optim.global_batch, int(config.workers))
    assert (rest, share % optim.micro_batch) == (0, 0)


@pytest.mark.parametrize("name", PAPER)
def test_its_docstring_says_what_it_takes(name: str) -> None:
    lines = [line.strip() for line in (rotated.RECIPES[name].__doc__ or "").splitlines()]
    told = dict(line.split(": ", 1) for line in lines[2:] if line)
    assert list(told) == ["Command", "Hardware", "Expected", "Source"]
    assert told["Command"] == f"itpn-ray detect {name} --data DATA --model.init WEIGHTS"
    assert told["Source"] == "5.3 and Table 7"
    assert ("79.3 % mAP" in told["Expected"]) == (name == "fast_itpn_base_rotated_1x")


@pytest.mark.parametrize("name", rotated.RECIPES)
def test_every_parameter_has_a_rate(name: str) -> None:
    config = named(rotated.RECIPES, name)
    assert isinstance(config.task, RotatedDetection)
    setup = TaskSetup(
        config=config.task, model=config.model, classes=["a"] * 15, augment=config.augment
    )
    task = RotatedDetectionTask(setup)
    with torch.device("meta"):
        network = task.build()
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trained == set(task.layer_ids(network))
    assert task.no_weight_decay(network) < trained
