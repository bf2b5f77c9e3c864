"""How a run's end is recorded, whichever it is: done, failed, or interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from itpn_ray.report import REPORT, add_report
from itpn_ray.runs.folder import CONFIG
from itpn_ray.runs.journal import PLOTS, Journal
from itpn_ray.terminal.console import Console
from itpn_ray.tracking.base import RunStatus, Tracker


@contextmanager
def recorded_end(
    journal: Journal, folder: Path, tracker: Tracker, console: Console
) -> Iterator[None]:
    """Record how the ``with`` block ends, in the journal, the report and the tracker.

    Args:
        journal: gets the event ``end`` with a status: FINISHED, INTERRUPTED after Ctrl-C or
            SIGTERM, FAILED after any other error.
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
    finally:
        journal.event("end", status=status, seconds=round(time.time() - begin, 1))
        add_report(folder, console)
        plots = sorted((folder / PLOTS).glob("*.png"))
        # After the report, which is among them.
        for path in (folder / CONFIG, *folder.glob(REPORT), *plots):
            tracker.log_artifact(path, PLOTS if path.parent.name == PLOTS else "")
        tracker.finish(status)
