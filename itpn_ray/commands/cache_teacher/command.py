"""`itpn-ray cache-teacher`: write a CLIP teacher's features once, for runs to read back."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

HELP = "write a CLIP teacher's features once, for runs to read back"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.cache_teacher.config import CacheTeacherConfig
    from itpn_ray.recipes import named
    from itpn_ray.recipes.pretrain import RECIPES

    name, rest = arguments.split_recipe(words, "cache-teacher", RECIPES)
    default = CacheTeacherConfig(experiment=named(RECIPES, name))
    config = arguments.parse(CacheTeacherConfig, rest, f"cache-teacher {name}", default)
    from itpn_ray.commands.cache_teacher.run import cache_teacher

    cache_teacher(config, console=console_for(verbose))
    return 0
