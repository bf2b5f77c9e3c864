"""`itpn-ray chaos`: faults on request: killed workers, a full disk, a flaky S3."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

HELP = "faults on request: killed workers, a full disk, a flaky S3"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.chaos.config import ChaosConfig

    config = arguments.parse(ChaosConfig, words, "chaos")
    from itpn_ray.commands.chaos.run import chaos

    chaos(config, console_for(verbose))
    return 0
