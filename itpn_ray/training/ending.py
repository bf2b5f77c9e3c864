"""How a run's end is recorded, whichever it is: done, failed, or interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from itpn_ray.errors import CapReached
from itpn_ray.report import REPORT, add_report
from itpn_ray.report.costs import bill_of
from itpn_ray.runs.folder import CONFIG
from itpn_ray.runs.journal import PLOTS, Journal
from itpn_ray.runs.reader import read_run
from itpn_ray.terminal.console import Console
from itpn_ray.tracking.base import RunStatus, Tracker


@contextmanager
def recorded_end(
    journal: Journal, folder: Path, tracker: Tracker, console: Console
) -> Iterator[None]:
    """Record how the ``with`` block ends, in the journal, the report and the tracker.

    Args:
        journal: gets the event ``end`` with a status: FINISHED, INTERRUPTED after Ctrl-C or
            SIGTERM, CAPPED where it has cost what it may, FAILED after any other error.
        folder: the run's folder.
        tracker: an open one, which is closed.
        console: is warned where no report can be made.
    """
    begin = time.time()
    # Until proven otherwise, so that whatever ends the block is recorded as a failure.
    status: RunStatus = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "INTERRUPTED"
        raise
    except CapReached:
        status = "CAPPED"
        raise
    finally:
        # First, so that the report knows how the run has ended.
        journal.event("end", status=status, seconds=round(time.time() - begin, 1))
        add_report(folder, console)
        _track_costs(folder, tracker, console)
        plots = sorted((folder / PLOTS).glob("*.png"))
        # After the report, which is among them.
        for path in (folder / CONFIG, *folder.glob(REPORT), *plots):
            tracker.log_artifact(path, PLOTS if path.parent.name == PLOTS else "")
        tracker.finish(status)


def _track_costs(folder: Path, tracker: Tracker, console: Console) -> None:
    """Hand what the run's machines cost to the tracker, and say it."""
    record = read_run(folder)
    bill = bill_of(record)
    if not bill.tells:
        return
    # By seconds of machines, which grow also where no step was done.
    tracker.log_metrics(bill.as_metrics(), step=round(record.costs.seconds()))
    console.say(bill.sentence())
