"""`itpn-ray plan`: what a run would take: parameters, memory, seconds a step, hours, money."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import starting

HELP = "what a run would take: parameters, memory, seconds a step, hours, money"
TRAINING = ("pretrain", "finetune", "detect", "segment")
"""The verbs whose runs can be planned, looked through in this order where none is named."""


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.plan.config import PlanConfig
    from itpn_ray.recipes import named, recipes_of

    verb, rest = (words[0], words[1:]) if words[:1] and words[0] in TRAINING else ("", words)
    listed = {one: recipes_of(one) for one in ([verb] if verb else TRAINING)}
    # The first verb's recipe counts where several have one of the same name.
    recipes = {name: recipe for one in reversed(listed) for name, recipe in listed[one].items()}
    usage = f"plan {verb}" if verb else f"plan [{'|'.join(TRAINING)}]"
    name, rest = arguments.split_recipe(rest, usage, recipes)
    default = PlanConfig(experiment=named(recipes, name))
    prog = f"plan {verb} {name}" if verb else f"plan {name}"
    config = arguments.parse(PlanConfig, rest, prog, default)
    console = starting(verbose)
    from itpn_ray.commands.plan.run import plan

    taken, *others = [one for one in listed if name in listed[one]]
    if others:
        have = f"{', '.join(others)} {'have' if len(others) > 1 else 'has'} one too"
        console.say(f"{name} of {taken} is planned; {have}: put the verb before the name")
    plan(config, name=f"{taken} {name}", console=console)
    return 0
