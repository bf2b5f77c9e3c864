"""`itpn-ray preview`: a contact sheet of prepared images as the network sees them."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

HELP = "a contact sheet of prepared images as the network sees them"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.data.config import LoaderConfig, PreviewConfig

    data, rest = arguments.split_place(words)
    config = arguments.parse(
        PreviewConfig, rest, "preview DATA", PreviewConfig(loader=LoaderConfig(transport="threads"))
    )
    from itpn_ray.report.preview import preview
    from itpn_ray.tasks.pixel_pretraining.masking import hidden_patches

    hide = hidden_patches(seed=config.seed, epoch=config.epoch, image_size=config.image_size)
    console_for(verbose).say(
        f"the contact sheet: {preview(data, 'preview.html', config=config, hide=hide)}"
    )
    return 0
