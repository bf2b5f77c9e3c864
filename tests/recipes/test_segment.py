"""Recipes of segmentation: their numbers, docstrings, and networks on the meta device."""

from __future__ import annotations

import re

import pytest
import torch

from itpn_ray.data.config import SegmentationAugmentConfig
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.models.segmentation.pixelwise import PixelwiseSegmenter
from itpn_ray.recipes import named, segment
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.tasks.segmentation.task import SegmentationTask
from itpn_ray.training.schedule import learning_rate, total_steps

PAPER = [name for name in segment.RECIPES if not name.startswith("nano")]
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
    assert (optim.global_batch, optim.weight_decay) == (16, 0.05)
    assert config.model.drop_path == (0.1 if name.startswith("itpn_base") else 0.2)
    rates = [learning_rate(optim, step, ADE20K_STEPS) for step in (80_750, 140_000, 159_999)]
    if "mask_dino" in name:
        assert (optim.clip_norm, optim.layer_decay, optim.backbone_lr_scale) == (0.01, 1.0, 0.1)
        assert rates == pytest.approx([1e-4, 1e-5, 1e-6])
    else:
        decay = 0.95 if "large" in name else 0.8 if "tiny" in name else 0.9
        assert (optim.clip_norm, optim.layer_decay, optim.lr) == (0, decay, 3e-5)
        assert rates[0] == pytest.approx(1.5e-5, rel=1e-3)
        assert rates[2] < 1e-9
    assert from_dict(to_dict(config)) == config


def test_crops_of_640_are_evaluated_in_windows_of_640() -> None:
    config = named(segment.RECIPES, "fast_itpn_base_mask_dino_640")
    task, augment = config.task, config.augment
    assert isinstance(task, Segmentation)
    assert isinstance(augment, SegmentationAugmentConfig)
    assert (task.short_side, task.long_side, task.window, task.stride) == (640, 2560, 640, 427)
    assert (augment.short_side, augment.long_side, augment.crop_size) == (640, 2560, 640)


@pytest.mark.parametrize("name", PAPER)
def test_its_docstring_says_what_it_takes(name: str) -> None:
    lines = [line.strip() for line in (segment.RECIPES[name].__doc__ or "").splitlines()]
    told = dict(line.split(": ", 1) for line in lines[2:] if line)
    assert list(told) == ["Command", "Hardware", "Expected", "Source"]
    assert told["Command"] == f"itpn-ray segment {name} --data DATA --model.init WEIGHTS"
    assert re.fullmatch(r"5\.3 and Table [56]", told["Source"])


@pytest.mark.parametrize("name", [name for name in segment.RECIPES if not name.endswith("_640")])
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
    assert isinstance(network, PixelwiseSegmenter)
    assert list(network.trunk.channels.values()) == [384, 512, 768, 768]
    assert network.logits.in_channels == 768
    assert network.aux_logits.in_channels == 256
