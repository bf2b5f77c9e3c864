"""`itpn-ray predict`: an image or a folder of them -> what is in them, as JSON and drawn."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import starting

HELP = "an image or a folder of them -> what is in them, as JSON and drawn"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.predict.config import PredictConfig

    config = arguments.parse(PredictConfig, words, "predict")
    console = starting(verbose)
    from itpn_ray.commands.predict.run import predict

    predict(config, console=console)
    return 0
