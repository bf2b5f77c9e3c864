"""`itpn-ray report`: write a run's report again from what its folder holds."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

HELP = "write a run's report again from what its folder holds"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.report_config import ReportConfig

    config = arguments.parse(ReportConfig, words, "report")
    from itpn_ray.report import report_again
    from itpn_ray.runs.folder import REPORT
    from itpn_ray.runs.mirror import fetched, is_uri
    from itpn_ray.storage import open_store

    written = report_again(str(fetched(config.run)) if is_uri(config.run) else config.run)
    # A remote run's report is made from a copy, and stored where the run is kept.
    if is_uri(config.run):
        open_store(config.run).put_file(written, REPORT)
    console_for(verbose).say(f"the report: {written}")
    return 0
