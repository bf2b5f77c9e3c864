"""`itpn-ray verify-resume`: the kill test on a run's own configuration."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

HELP = "the kill test on a run's own configuration"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.verify_resume.config import VerifyConfig

    config = arguments.parse(VerifyConfig, words, "verify-resume")
    from itpn_ray.commands.verify_resume.run import verify_resume

    verdict = verify_resume(config)
    console = console_for(verbose)
    console.say(f"left alone  {verdict.whole}")
    console.say(f"killed      {verdict.killed}")
    # A kill near the end may have no step after it.
    for (step, rank), seconds in zip(verdict.kills, verdict.restart_s, strict=False):
        console.say(f"  rank {rank} near step {step}; next step {seconds:.1f} s later")
    console.say("bit-equal" if verdict.equal else "NOT EQUAL")
    return 0 if verdict.equal else 1
