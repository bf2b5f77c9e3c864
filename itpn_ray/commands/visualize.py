"""`itpn-ray visualize`: attention or migration drawn over an image."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for, of_run

HELP = "attention or migration drawn over an image"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.models.weights.config import VisualizeConfig

    config = arguments.parse(VisualizeConfig, words, "visualize")
    from itpn_ray.models.networks.visualize import visualize

    console = console_for(verbose)
    console.say(f"the map: {visualize(of_run(config, console))}")
    return 0
