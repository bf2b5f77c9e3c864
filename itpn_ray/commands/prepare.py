"""`itpn-ray prepare`: turn raw images into shards with a manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for
from itpn_ray.formatting import number_of

if TYPE_CHECKING:
    from itpn_ray.data.prepare.config import PrepareConfig
    from itpn_ray.terminal.console import Console

HELP = "turn raw images into shards with a manifest"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.data.prepare.config import PrepareConfig

    prepare_data(arguments.parse(PrepareConfig, words, "prepare"), console_for(verbose))
    return 0


def prepare_data(config: PrepareConfig, console: Console) -> None:
    """Prepare the images, and say what became of them.

    Raises:
        ConfigError: places that cannot be used.
        DataError: images that cannot be used.
    """
    from itpn_ray.data.doctor.balance import untaught
    from itpn_ray.data.prepare.driver import prepare
    from itpn_ray.ray_runtime.start import redirect_ray_errors
    from itpn_ray.terminal.item_progress import progress_bar

    verbose = console.verbosity == "verbose"
    with redirect_ray_errors(verbose=verbose), progress_bar(console, "preparing images") as count:
        manifest = prepare(config, lambda now: count(now.images, now.total_images), say=console.say)
    classes = number_of(len(manifest.classes), "class", "classes")
    for split, info in manifest.splits.items():
        images, shards = number_of(info.count, "image"), number_of(len(info.shards), "shard")
        console.say(f"{split}: {images} of {classes} in {shards}")
    if "train" not in manifest.splits:
        console.warn(
            f"there is nothing to train on, only {', '.join(manifest.splits)}: if the source has "
            "training images, prepare it with --splits train=NAME, what it calls them"
        )
    if classes := untaught(manifest):
        console.warn(classes)
    if manifest.quarantined:
        console.warn(
            f"files or objects left out: {manifest.quarantined:,}, "
            f"listed in {config.out}/quarantine.csv"
        )
    console.say(f"the prepared data lie in {config.out}")
