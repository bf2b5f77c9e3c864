"""`itpn-ray inspect`: what a weight file holds."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for, of_run

HELP = "what a weight file holds"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.models.weights.config import InspectConfig

    config = arguments.parse(InspectConfig, words, "inspect")
    from itpn_ray.models.weights.inspect import inspect_file

    rows = inspect_file(of_run(config, console_for(verbose))).rows()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console_for(verbose).say(f"{name:{width}}  {value}")
    return 0
