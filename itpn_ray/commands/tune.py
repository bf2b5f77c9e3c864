"""`itpn-ray tune`: sweep λ, layer decay and r: accuracy against images/s."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import command_line, starting

HELP = "sweep any settings, such as λ, layer decay and r: accuracy against images/s"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.recipes import named, recipes_of
    from itpn_ray.tuning.config import SweepConfig
    from itpn_ray.tuning.space import spell_space

    recipes = recipes_of("tune")
    name, rest = arguments.split_recipe(words, "tune", recipes)
    config = arguments.parse(SweepConfig, spell_space(rest), f"tune {name}", named(recipes, name))
    console = starting(verbose)
    from itpn_ray.tuning.sweep import sweep

    sweep(config, command=command_line("tune", words), console=console)
    return 0
