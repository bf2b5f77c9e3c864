"""What several verbs need: a console, the command line, the weights of a run's folder."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from itpn_ray.models.weights.config import ExportConfig, InspectConfig, VisualizeConfig
    from itpn_ray.terminal.console import Console

F = TypeVar("F", "InspectConfig", "ExportConfig", "VisualizeConfig")


def console_for(verbose: bool) -> Console:
    """The console, which with ``-v`` shows what Ray prints."""
    from itpn_ray.terminal.console import Console

    return Console(verbosity="verbose" if verbose else "normal")


def starting(verbose: bool) -> Console:
    """The console, which says at once what the first seconds are spent on."""
    console = console_for(verbose)
    console.say("loading PyTorch")
    return console


def command_line(verb: str, words: list[str]) -> str:
    """The command as a shell takes it."""
    import shlex

    return shlex.join(["itpn-ray", verb, *words])


def of_run(config: F, console: Console) -> F:
    """The settings with a weight file in the place of the run's folder that they name."""
    from pathlib import Path

    if not Path(config.file).is_dir() and "://" not in config.file:
        return config
    # Not before it is needed, for it imports PyTorch.
    from itpn_ray.training.exporting import weight_file

    return dataclasses.replace(config, file=str(weight_file(config.file, console.say)))


def at_separator(words: list[str]) -> tuple[list[str], list[str]]:
    """The words before and after ``--``."""
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]
