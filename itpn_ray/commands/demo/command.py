"""`itpn-ray demo`: train, tune and detect on images that come with the package."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

HELP = "train, tune and detect on images that come with the package, in minutes on a laptop"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.demo.config import DemoConfig

    config = arguments.parse(DemoConfig, words, "demo")
    from itpn_ray.commands.demo.run import demo

    demo(config, console=console_for(verbose))
    return 0
