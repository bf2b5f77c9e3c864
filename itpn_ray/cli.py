"""The command line: one verb a command, heavy imports only once a verb runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from itpn_ray import checks
from itpn_ray.errors import ConfigError, ItpnError

if TYPE_CHECKING:
    from itpn_ray.console import Console

T = TypeVar("T")
USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; exit with 0, 1 for a defect, 2 for a mistake in the input, 130 for Ctrl-C."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run a verb and return its exit code."""
    verbose = "-v" in arguments or "--verbose" in arguments
    rest = [argument for argument in arguments if argument not in ("-v", "--verbose")]
    if not rest or rest[0] in ("-h", "--help"):
        print(overview())
        return 0
    verb, *rest = rest
    try:
        checks.one_of("verb", verb, VERBS)
        return VERBS[verb][0](rest, verbose)
    except ItpnError as error:
        print(f"itpn-ray {verb}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"itpn-ray {verb}: interrupted; repeat the command to go on", file=sys.stderr)
        return 130


def overview() -> str:
    """What `itpn-ray --help` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {help_line}" for verb, (_, help_line) in VERBS.items()]
    return "\n".join(
        [
            "usage: itpn-ray VERB [...] [-v]",
            "",
            "Pre-train, fine-tune and tune Fast-iTPN on your own pictures with Ray.",
            "",
            *lines,
            "",
            "itpn-ray VERB --help lists a verb's options; -v shows what Ray prints.",
        ]
    )


def parse(cls: Callable[..., T], arguments: list[str], prog: str, default: T | None = None) -> T:
    """Parse options into a settings class; a mistyped one names the nearest right one.

    Raises:
        SystemExit: 0 after --help, 2 after a mistake.
    """
    import tyro

    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        cls,
        prog=f"itpn-ray {prog}",
        args=arguments,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        **options,
    )


def split_recipe(arguments: list[str], verb: str, recipes: Any) -> tuple[str, list[str]]:
    """The recipe's name and the rest.

    Raises:
        ConfigError: no recipe is named.
        SystemExit: after --help.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if "-h" in arguments or "--help" in arguments:
        print(f"usage: itpn-ray {verb} RECIPE [OPTIONS]\n\nrecipes:")
        for name, recipe in recipes.items():
            print(f"  {name:24} {(recipe.__doc__ or '').splitlines()[0]}")
        print(f"\nitpn-ray {verb} RECIPE --help lists the options.")
        raise SystemExit(0)
    raise ConfigError("recipe", None, "is missing", f"Known: {', '.join(recipes)}")


def _train(verb: str, arguments: list[str], verbose: bool) -> int:
    import importlib

    from itpn_ray.experiment import ExperimentConfig
    from itpn_ray.recipes import named

    recipes = importlib.import_module(f"itpn_ray.recipes.{verb}").RECIPES
    name, rest = split_recipe(arguments, verb, recipes)
    config = parse(ExperimentConfig, rest, f"{verb} {name}", named(recipes, name))
    from itpn_ray.training.run import run as train

    train(config, command=_command(verb, arguments), console=_console(verbose))
    return 0


def _pretrain(arguments: list[str], verbose: bool) -> int:
    return _train("pretrain", arguments, verbose)


def _finetune(arguments: list[str], verbose: bool) -> int:
    return _train("finetune", arguments, verbose)


def _console(verbose: bool) -> Console:
    from itpn_ray.console import Console

    return Console(verbosity="verbose" if verbose else "normal")


def _command(verb: str, arguments: list[str]) -> str:
    import shlex

    return shlex.join(["itpn-ray", verb, *arguments])


VERBS: dict[str, tuple[Callable[[list[str], bool], int], str]] = {
    "pretrain": (_pretrain, "pre-train on prepared pictures by masked image and feature modelling"),
    "finetune": (_finetune, "fine-tune a classifier from pre-trained weights"),
}
"""Verb -> what runs it, and its line in the overview."""
