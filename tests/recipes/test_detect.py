"""Recipes of detection: their numbers, their docstrings, and their networks on the meta device."""

from __future__ import annotations

import re

import pytest
import torch

from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.models import create_autoencoder, create_distiller, load_weights
from itpn_ray.recipes import detect, named, pretrain
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.detection.task import DetectionTask

NETWORKS = (
    *(f"fast_itpn_{size}" for size in ("tiny", "small", "base", "large")),
    *("itpn_base", "itpn_large"),
)
SCHEDULES = ("mask_rcnn_1x", "mask_rcnn_3x", "cascade_3x", "dino")
CHAIN = ("fast_itpn_base_dino_objects365", "fast_itpn_base_dino_6")
PAPER = [f"{network}_{schedule}" for network in NETWORKS for schedule in SCHEDULES]
EVERY = pytest.mark.parametrize("name", detect.RECIPES)

# Head, rate, epochs, warm-up steps, batch: the authors' configurations, and DINO's authors'.
NUMBERS = {
    "mask_rcnn_1x": ("mask_rcnn", 2e-4, 12, 500, 64),
    "mask_rcnn_3x": ("mask_rcnn", 1.5e-4, 36, 500, 64),
    "cascade_3x": ("cascade_mask_rcnn", 1e-4, 36, 500, 64),
    "dino": ("dino", 1e-4, 12, 0, 16),
}
LAYER_DECAY = {"tiny": 0.80, "small": 0.90, "base": 0.90, "large": 0.95}


def make(config: ExperimentConfig, classes: int = 3) -> DetectionTask:
    assert isinstance(config.task, Detection)
    assert isinstance(config.augment, DetectionAugmentConfig)
    return DetectionTask(
        TaskSetup(
            config=config.task,
            model=config.model,
            classes=[str(number) for number in range(classes)],
            augment=config.augment,
        )
    )


def test_all_heads_are_there_for_all_networks() -> None:
    assert set(detect.RECIPES) == {"nano", "nano_dino", *PAPER, *CHAIN}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_numbers(network: str, schedule: str) -> None:
    config = named(detect.RECIPES, f"{network}_{schedule}")
    assert isinstance(config.task, Detection)
    assert config.model.name == network
    optim = config.optim
    found = (config.task.head, optim.lr, optim.epochs, optim.warmup_steps, optim.global_batch)
    assert found == NUMBERS[schedule]
    dino = schedule == "dino"
    assert (optim.weight_decay, optim.backbone_lr_scale, optim.clip_norm) == (
        (1e-4, 0.1, 0.1) if dino else (0.05, 1.0, 0.0)
    )
    assert optim.layer_decay == (1.0 if dino else LAYER_DECAY[network.rsplit("_", 1)[1]])
    drops = [round(share * optim.epochs, 6) for share in optim.lr_milestones]
    assert drops == {"1x": [9, 11], "3x": [27, 33], "dino": [11]}[schedule.rsplit("_", 1)[-1]]
    assert (config.task.short_side, config.task.long_side) == (800, 1333)
    assert config.task.masks != dino
    assert config.augment == DetectionAugmentConfig()


@pytest.mark.parametrize("name", [*PAPER, *CHAIN])
def test_its_docstring_says_what_it_takes(name: str) -> None:
    lines = [line.strip() for line in (detect.RECIPES[name].__doc__ or "").splitlines()]
    told = dict(line.split(": ", 1) for line in lines[2:] if line)
    assert lines[1] == ""
    assert list(told) == ["Command", "Hardware", "Expected", "Source"]
    assert told["Command"].startswith(f"itpn-ray detect {name} --data DATA --model.init WEIGHTS")
    assert re.fullmatch(r"5\.3 and Table [56]", told["Source"])
    for follower in re.findall(r"itpn-ray detect (\w+)", told["Expected"]):
        assert follower in detect.RECIPES


@EVERY
def test_it_travels_as_plain_data_under_its_own_name(name: str) -> None:
    config = named(detect.RECIPES, name)
    assert from_dict(to_dict(config)) == config
    assert config.run in (name, "detect")


@pytest.mark.parametrize("name", [*PAPER, *CHAIN])
def test_batch_divides_among_its_gpus(name: str) -> None:
    config = named(detect.RECIPES, name)
    share, rest = divmod(config.optim.global_batch, int(config.workers))
    assert rest == 0
    assert share % config.optim.micro_batch == 0


@EVERY
def test_every_parameter_has_a_rate(name: str) -> None:
    with torch.device("meta"):
        task = make(named(detect.RECIPES, name))
        network = task.build()
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trained == set(task.layer_ids(network))
    assert task.no_weight_decay(network) < trained


@pytest.mark.parametrize("name", ["nano", "nano_dino"])
def test_small_recipes_are_small(name: str) -> None:
    config = named(detect.RECIPES, name)
    assert (config.workers, config.gpus, config.model.image_size) == ("1", None, 64)
    task = make(config)
    with torch.device("meta"):
        network = task.build()
    assert sum(p.numel() for p in network.parameters()) < 6e6


@pytest.mark.parametrize("network", ["fast_itpn_base", "itpn_base"])
def test_pretrained_weights_fit(network: str) -> None:
    """Trunk and pyramid of a pre-training of the same network are taken whole."""
    config = named(detect.RECIPES, f"{network}_mask_rcnn_1x")
    with torch.device("meta"):
        detector = make(config).build().detector
        if network == "itpn_base":
            earlier = named(pretrain.RECIPES, "itpn_base_pixel_400").model
            source = create_autoencoder(earlier.name, pyramid_depth=1, **earlier.trunk_changes())
        else:
            earlier = named(pretrain.RECIPES, network).model
            source = create_distiller(earlier.name, teacher_dim=768, **earlier.trunk_changes())
        report = load_weights(detector, source.state_dict())
    assert report.fraction == 1.0
    assert all(name.startswith(("rpn.", "roi.")) for name in report.missing)
