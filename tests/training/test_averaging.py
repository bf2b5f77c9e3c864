"""What is said of a run's average, and that the paper's runs end with the decay they ask for."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import torch

from itpn_ray.experiment import ExperimentConfig
from itpn_ray.recipes import detect, finetune, pretrain
from itpn_ray.tasks.averaging import decay_at
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.terminal.console import Console
from itpn_ray.training.averaging import describe_average
from itpn_ray.training.launch.driver import run
from itpn_ray.training.launch.process import open_checkpoints
from itpn_ray.training.launch.setup import make_task
from itpn_ray.training.schedule import total_steps
from tests.training.runs import classification

IMAGENET, COCO = 1_281_167, 117_266
RECIPES = [
    (name, recipe(), COCO if recipes is detect.RECIPES else IMAGENET)
    for recipes in (pretrain.RECIPES, finetune.RECIPES, detect.RECIPES)
    for name, recipe in recipes.items()
]
SHORT = {"fast_itpn_base": 0.9996, "fast_itpn_base_512": 0.9996, "fast_itpn_large": 0.9998}
"""Fine-tuning for 20 epochs ends before the decay of 0.9999 is reached."""


@pytest.mark.parametrize(("name", "config", "images"), RECIPES, ids=[name for name, *_ in RECIPES])
def test_long_recipes_end_with_the_decay_they_ask_for(
    name: str, config: ExperimentConfig, images: int
) -> None:
    task = config.task
    asked = getattr(task, "ema_decay", getattr(task, "teacher_momentum", 0.0))
    steps = total_steps(config.optim, images // config.optim.global_batch)
    short = isinstance(task, Classification) and name in SHORT
    assert round(decay_at(asked, steps - 1), 4) == (SHORT[name] if short else asked)


@pytest.mark.parametrize(
    ("config", "steps", "said"),
    [
        (
            ExperimentConfig(task=Classification()),
            180,
            "evaluated and exported weights: decay 0.95238 at the end of 180 steps, "
            "with less than 0.01 % of the first weights left",
        ),
        (
            ExperimentConfig(task=Classification(ema_decay=0.98)),
            2,
            "evaluated and exported weights: decay 0.18182 at the end of 2 steps, "
            "with 1.82 % of the first weights left",
        ),
        (
            ExperimentConfig(task=PixelPretraining()),
            125_000,
            "teacher of the feature loss: decay 0.996 at the end of 125,000 steps, "
            "with less than 0.01 % of the first weights left",
        ),
        (
            dataclasses.replace(detect.nano(), task=Detection(ema_decay=0.9)),
            1,
            "evaluated and exported weights: decay 0.1 at the end of 1 step, "
            "with 10 % of the first weights left",
        ),
        (detect.nano(), 100, ""),
        (ExperimentConfig(task=Classification(ema_decay=0.0)), 100, ""),
        (ExperimentConfig(task=PixelPretraining(feature_weight=0.0)), 100, ""),
        (ExperimentConfig(task=ClipPretraining()), 100, ""),
    ],
)
def test_what_is_said(config: ExperimentConfig, steps: int, said: str) -> None:
    assert describe_average(config, steps) == said


@pytest.mark.rounding
def test_a_short_run_says_so_and_evaluates_what_it_has_learned(
    prepared: str, tmp_path: Path
) -> None:
    """With a constant decay the average would lie within a thousandth of the first weights."""
    config = classification(prepared, tmp_path)
    config = dataclasses.replace(config, task=Classification(ema_decay=0.9999))
    stream = io.StringIO()
    folder = run(config, command="", console=Console(stream=stream))
    told = "decay 0.47059 at the end of 8 steps, with less than 0.01 % of the first weights left"
    assert told in stream.getvalue()
    assert told in (folder / "train.log").read_text()
    checkpoint = open_checkpoints(config).latest_good()
    assert checkpoint is not None
    state = checkpoint.load("network")["network"]
    begun = make_task(config, [str(number) for number in range(len(state["classifier.head.bias"]))])
    first = begun.build().state_dict()
    name = "classifier.trunk.embed.weight"
    average, trained = state[name.replace("classifier", "average", 1)], state[name]
    assert torch.dist(average, trained) < 0.5 * torch.dist(average, first[name])
