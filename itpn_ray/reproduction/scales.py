"""At which scale a recipe of the paper is run: its own, one GPU's, or a laptop's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.recipes import named, recipes_of
from itpn_ray.reproduction.grid import Step

PAPER_SIDE = 224
"""Pixels of the paper's images, which `Scale.side` stands for."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What stands for the paper's network, images and schedule."""

    networks: Mapping[str, str]
    """The paper's network -> the one in its place; rows of other networks have none."""
    side: int
    """Pixels in the place of 224."""
    window: int
    """Largest side of an attention window, tokens."""
    epochs: Mapping[str, float]
    """Verb -> factor on the epochs of the paper's recipe."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a task -> what differs from its nano recipe."""


_BASE = ("fast_itpn_base", "itpn_base")
NANO = Scale(
    networks={**dict.fromkeys(_BASE, "fast_itpn_nano"), "plain_base": "plain_nano"},
    side=64,
    window=4,
    epochs={"pretrain": 3 / 400, "finetune": 3 / 100, "detect": 4 / 12, "segment": 12 / 127},
    changes={
        "pixel_pretraining": {"optim.global_batch": 32, "eval_every": 1},
        "clip_pretraining": {"optim.global_batch": 32, "eval_every": 1},
        "classification": {"optim.global_batch": 32},
        "detection": {
            "eval_every": 1,
            # Masks and larger images take three times as long, mostly to evaluate them.
            "task.masks": False,
            "task.short_side": 96,
            "task.long_side": 160,
            "augment.short_sides": (80, 96, 112),
            "augment.long_side": 160,
            "augment.crop_short_sides": (80, 96, 112),
            "augment.crop_size": (64, 112),
        },
        "segmentation": {"eval_every": 0},
    },
)
_SMALL_BATCH = {"optim.global_batch": 256, "optim.micro_batch": 256}
_DENSE = {"optim.global_batch": 16, "optim.micro_batch": 8}
SMALL = Scale(
    networks={**dict.fromkeys(_BASE, "fast_itpn_tiny"), "plain_base": "plain_small"},
    side=128,
    window=8,
    epochs={"pretrain": 1 / 4, "finetune": 1 / 2, "detect": 1, "segment": 1 / 4},
    changes={
        "pixel_pretraining": {
            **_SMALL_BATCH,
            "task.pyramid_width": 256,
            "task.decoder_width": 256,
            "task.decoder_depth": 4,
        },
        "clip_pretraining": {**_SMALL_BATCH, "task.pyramid_width": 256},
        "classification": {**_SMALL_BATCH, "task.ema_decay": 0.999},
        "detection": {**_DENSE, "task.short_side": 320, "task.long_side": 544},
        "segmentation": {**_DENSE, "task.width": 256},
    },
)
SCALES: dict[str, Scale | None] = {"nano": NANO, "small": SMALL, "paper": None}
"""Name -> scale; the paper's own changes nothing."""


class NotAvailable(Exception):
    """A cell cannot be run here; the message says why."""


def scaled(step: Step, scale: Scale | None) -> tuple[str, ExperimentConfig]:
    """The recipe that a step takes at a scale, and its settings.

    Raises:
        NotAvailable: there is no such recipe, or nothing stands for its network.
        ConfigError: its changes do not fit its recipe.
    """
    paper = changed(_recipe(step.verb, step.recipe, step), step.changes)
    if scale is None:
        return step.recipe, paper
    if step.stand_in:
        return scaled(dataclasses.replace(step, recipe=step.stand_in, stand_in=""), scale)
    if paper.model.name not in scale.networks:
        raise NotAvailable(f"nothing stands for {paper.model.name} at this scale")
    # The nano recipe of such a task stands for the paper's.
    recipe = _small_recipe(paper)
    # In proportion to the paper's, so that longer runs stay longer.
    epochs = round(paper.optim.epochs * scale.epochs[step.verb])
    own = {
        # What the step changes goes before what the scale
        # does, and what the scale decides comes last.
        **scale.changes.get(paper.task.name, {}),
        **step.changes,
        "model.name": scale.networks[paper.model.name],
        "model.image_size": _side(step, paper, scale),
        "optim.epochs": max(2.0, float(epochs)),  # the first is a warm-up
    }
    # In the place of the paper's window, for which a small map has no room.
    if paper.model.window:
        own["model.window"] = scale.window
    # Cascade heads have no small recipe of their own.
    if step.verb == "detect" and hasattr(paper.task, "head"):
        own["task.head"] = paper.task.head
    return recipe, changed(_recipe(step.verb, recipe, step), own)


def _recipe(verb: str, name: str, step: Step) -> ExperimentConfig:
    recipes = recipes_of(verb)
    if name not in recipes:
        raise NotAvailable(f"there is no recipe {step.recipe} of itpn-ray {verb}")
    return named(recipes, name)


def _small_recipe(paper: ExperimentConfig) -> str:
    """The nano recipe of a task and head."""
    by_task = {"clip_pretraining": "nano_clip", "rotated_detection": "nano_rotated"}
    by_head = {"dino": "nano_dino", "mask_dino": "nano_mask_dino"}
    head = str(getattr(paper.task, "head", ""))
    return by_head.get(head) or by_task.get(paper.task.name, "nano")


def _side(step: Step, paper: ExperimentConfig, scale: Scale) -> int:
    """Pixels of the images: as many more as the paper's recipe has, in whole patches."""
    if step.verb != "finetune":
        return scale.side
    # In proportion to the paper's side, in whole patches.
    return round(paper.model.image_size * scale.side / PAPER_SIDE / 16) * 16


def changed(config: ExperimentConfig, changes: Mapping[str, Any]) -> ExperimentConfig:
    """The settings with some of them replaced, by their paths.

    Raises:
        ConfigError: there is no such setting, or a value that cannot be used.
    """
    plain = to_dict(config)
    for path, value in changes.items():
        *groups, name = path.split(".")
        group = plain
        for key in groups:
            group = group[key]
        if name not in group:
            raise ConfigError(path, value, "is no field", "See `itpn-ray finetune nano --help`")
        group[name] = value
    return from_dict(plain)
