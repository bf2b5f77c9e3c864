"""`itpn-ray evaluate`: accuracy and images/s from weights alone, at any migration ratio."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import command_line, starting

HELP = "accuracy and images/s from weights alone, at any migration ratio"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.evaluate.config import EvaluateConfig

    config = arguments.parse(EvaluateConfig, words, "evaluate")
    console = starting(verbose)
    from itpn_ray.commands.evaluate.run import evaluate

    evaluate(config, command=command_line("evaluate", words), console=console)
    return 0
