"""`itpn-ray synthesize`: draw the embedded labelled images in a data set's true format."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

HELP = "draw the embedded labelled images in a data set's true format"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.data.prepare.config import SynthesizeConfig

    config = arguments.parse(SynthesizeConfig, words, "synthesize")
    from itpn_ray.data.synthetic.layouts import generate
    from itpn_ray.terminal.item_progress import progress_bar

    console = console_for(verbose)
    with progress_bar(console, "drawing images") as count:
        folder = generate(config, count)
    console.say(f"{config.train} + {config.val} images lie in {folder}")
    return 0
