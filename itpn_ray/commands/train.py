"""`itpn-ray pretrain`, `finetune`, `detect` and `segment`: a recipe, with settings changed."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import command_line, starting

PRETRAIN_HELP = "pre-train by masked image and feature modelling"
FINETUNE_HELP = "fine-tune a classifier from pre-trained weights"
DETECT_HELP = "train a detector from pre-trained weights, trunk and pyramid"
SEGMENT_HELP = "train a segmenter from pre-trained weights, trunk and pyramid"


def pretrain(words: list[str], verbose: bool) -> int:
    """Run `pretrain`; its exit code."""
    return _train("pretrain", words, verbose)


def finetune(words: list[str], verbose: bool) -> int:
    """Run `finetune`; its exit code."""
    return _train("finetune", words, verbose)


def detect(words: list[str], verbose: bool) -> int:
    """Run `detect`; its exit code."""
    return _train("detect", words, verbose)


def segment(words: list[str], verbose: bool) -> int:
    """Run `segment`; its exit code."""
    return _train("segment", words, verbose)


def _train(verb: str, words: list[str], verbose: bool) -> int:
    from itpn_ray.experiment import ExperimentConfig
    from itpn_ray.recipes import named, recipes_of

    recipes = recipes_of(verb)
    name, rest = arguments.split_recipe(words, verb, recipes)
    config = arguments.parse(ExperimentConfig, rest, f"{verb} {name}", named(recipes, name))
    console = starting(verbose)
    from itpn_ray.training.launch.driver import run as train

    train(config, command=command_line(verb, words), console=console)
    return 0
