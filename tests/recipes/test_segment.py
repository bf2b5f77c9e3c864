"""Recipes of segmentation: their numbers, docstrings, and networks on the meta device."""

from __future__ import annotations

import re

import pytest
import torch

from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.recipes import named, segment
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.tasks.segmentation.task import SegmentationTask
from itpn_ray.training.schedule import learning_rate, total_steps

PAPER = [name for name in segment.RECIPES if name != "nano"]
ADE20K_STEPS = 1263  # an epoch


def make(config: ExperimentConfig) -> SegmentationTask:
    assert isinstance(config.task, Segmentation)
    setup = TaskSetup(
        config=config.task,
        model=config.model,
        classes=[str(number) for number in range(150)],
        augment=config.augment,
    )
    return SegmentationTask(setup)


@pytest.mark.parametrize("name", PAPER)
def test_numbers(name: str) -> None:
    """The authors' configurations: see the recipes' module."""
    config = named(segment.RECIPES, name)
    optim = config.optim
    assert total_steps(optim, ADE20K_STEPS) == 160_000
    assert (optim.lr, optim.global_batch, optim.weight_decay, optim.clip_norm) == (
        3e-5,
        16,
        0.05,
        0,
    )
    decay = 0.95 if "large" in name else 0.8 if "tiny" in name else 0.9
    assert optim.layer_decay == decay
    assert config.model.drop_path == (0.1 if name.startswith("itpn_base") else 0.2)
    middle = learning_rate(optim, (160_000 + 1500) // 2, ADE20K_STEPS)
    assert middle == pytest.approx(1.5e-5, rel=1e-3)
    assert learning_rate(optim, 159_999, ADE20K_STEPS) < 1e-9
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize("name", PAPER)
def test_its_docstring_says_what_it_takes(name: str) -> None:
    lines = [line.strip() for line in (segment.RECIPES[name].__doc__ or "").splitlines()]
    told = dict(line.split(": ", 1) for line in lines[2:] if line)
    assert list(told) == ["Command", "Hardware", "Expected", "Source"]
    assert told["Command"] == f"itpn-ray segment {name} --data DATA --model.init WEIGHTS"
    assert re.fullmatch(r"5\.3 and Table [56]", told["Source"])


@pytest.mark.parametrize("name", segment.RECIPES)
def test_every_parameter_has_a_rate(name: str) -> None:
    with torch.device("meta"):
        task = make(named(segment.RECIPES, name))
        network = task.build()
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trained == set(task.layer_ids(network))
    assert task.no_weight_decay(network) < trained


def test_base_joins_maps_as_the_authors_do() -> None:
    with torch.device("meta"):
        network = make(named(segment.RECIPES, "fast_itpn_base_upernet")).build().segmenter
    assert list(network.trunk.channels.values()) == [384, 512, 768, 768]
    assert network.logits.in_channels == 768
    assert network.aux_logits.in_channels == 256
