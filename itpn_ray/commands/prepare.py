"""`itpn-ray prepare`: turn raw images into shards with a manifest."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

HELP = "turn raw images into shards with a manifest"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.data.prepare.config import PrepareConfig

    config = arguments.parse(PrepareConfig, words, "prepare")
    from itpn_ray.data.prepare.driver import prepare
    from itpn_ray.ray_runtime.start import redirect_ray_errors
    from itpn_ray.terminal.item_progress import progress_bar

    console = console_for(verbose)
    with redirect_ray_errors(verbose=verbose), progress_bar(console, "preparing images") as count:
        manifest = prepare(config, lambda now: count(now.images, now.total_images), say=console.say)
    for split, info in manifest.splits.items():
        console.say(
            f"{split}: {info.count:,} images of {len(manifest.classes)} classes in "
            f"{len(info.shards)} shards"
        )
    if manifest.quarantined:
        console.warn(
            f"files or objects left out: {manifest.quarantined:,}, "
            f"listed in {config.out}/quarantine.csv"
        )
    console.say(f"the prepared data lie in {config.out}")
    return 0
