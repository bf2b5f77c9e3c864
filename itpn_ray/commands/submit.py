"""`itpn-ray submit`: run any verb as a job on a Ray cluster."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import at_separator
from itpn_ray.errors import ConfigError

HELP = "run any verb, or the steps of a job file, as a job on a Ray cluster"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from jobs.config import SubmitConfig

    options, verb = at_separator(words)
    config = arguments.parse(SubmitConfig, options, "submit")
    if bool(verb) == bool(config.job):
        raise ConfigError(
            "submit",
            config.job or None,
            "takes either a verb or a job file" if verb else "names no verb and no job file",
            "Write `itpn-ray submit [OPTIONS] -- pretrain nano ...`, or "
            "`itpn-ray submit jobs/chain.yaml [OPTIONS]`",
        )
    from jobs.submit import submit, submit_file

    return submit(config, verb) if verb else submit_file(config)
