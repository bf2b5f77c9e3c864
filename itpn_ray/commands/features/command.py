"""`itpn-ray features`: images -> embeddings as Parquet, kNN and linear probe, a map."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import command_line, starting

HELP = "images -> embeddings as Parquet, kNN and linear probe, a map"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.features.config import FeaturesConfig

    config = arguments.parse(FeaturesConfig, words, "features")
    console = starting(verbose)
    from itpn_ray.commands.features.run import extract

    extract(config, command=command_line("features", words), console=console)
    return 0
