"""`itpn-ray plan`: what a run would take: parameters, memory, seconds a step, hours, money."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import starting

HELP = "what a run would take: parameters, memory, seconds a step, hours, money"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.plan.config import PlanConfig
    from itpn_ray.recipes import named, recipes_of

    recipes = {**recipes_of("finetune"), **recipes_of("pretrain")}
    verb, rest = "plan", words
    for kind in ("finetune", "detect", "segment"):
        if words[:1] == [kind]:  # some networks have a recipe of the same name in several
            verb, rest, recipes = f"plan {kind}", words[1:], recipes_of(kind)
    name, rest = arguments.split_recipe(rest, verb, recipes)
    config = arguments.parse(
        PlanConfig, rest, f"{verb} {name}", PlanConfig(experiment=named(recipes, name))
    )
    console = starting(verbose)
    from itpn_ray.commands.plan.run import plan

    plan(config, name=name, console=console)
    return 0
