"""`itpn-ray reproduce`: tables and figures of the paper, at any scale."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import command_line, starting

HELP = "tables and figures of the paper on your images, with seeds and verdicts"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.reproduction.config import ReproduceConfig

    config = arguments.parse(ReproduceConfig, words, "reproduce")
    console = starting(verbose)
    from itpn_ray.reproduction.reproduce import reproduce

    reproduce(config, command=command_line("reproduce", words), console=console)
    return 0
