"""`itpn-ray submit`: run any verb as a job on a Ray cluster."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import at_separator
from itpn_ray.errors import ConfigError

HELP = "run any verb as a job on a Ray cluster"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from jobs.config import SubmitConfig

    options, verb = at_separator(words)
    config = arguments.parse(SubmitConfig, options, "submit")
    if not verb:
        raise ConfigError(
            "submit",
            None,
            "names no verb",
            "Write `itpn-ray submit [OPTIONS] -- pretrain nano ...`",
        )
    from jobs.submit import submit

    return submit(config, verb)
