"""`itpn-ray runs`: all runs in one place, the best of them, or two side by side."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for
from itpn_ray.errors import ConfigError

HELP = "list the runs under a folder or URI; the best one; two side by side"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.commands.runs_config import RunsConfig

    config = arguments.parse(RunsConfig, words, "runs")
    from itpn_ray.formatting import label, show_metric
    from itpn_ray.runs.listing import best_run, differences, overview, read_runs, side_by_side

    console = console_for(verbose)
    records = read_runs(config.out)
    if config.compare:
        named = {record.name: record for record in records}
        missing = [name for name in config.compare if name not in named]
        if missing:
            raise ConfigError("compare", missing[0], "is no run here", f"Known: {', '.join(named)}")
        one, other = (named[name] for name in config.compare)
        console.table(side_by_side(one, other))
        console.table(differences(one, other))
    elif config.best:
        record, metric, value = best_run(records, config.metric)
        console.say(f"{record.name}: {label(metric)} {show_metric(metric, value)}")
    else:
        console.table([overview(record) for record in records])
    return 0
