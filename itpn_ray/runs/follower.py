"""Hands the metrics that a run writes to its tracker, while it runs."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from itpn_ray.runs.journal import METRICS, read_lines
from itpn_ray.tracking import Tracker

INTERVAL_S = 2.0
STAMPS = ("step", "epoch", "split", "time")


class TrackingFollower:
    """Reads metrics.jsonl in a thread; what is new goes to the tracker.

    A tracker that cannot be reached must not end the training: what it could not take is offered
    again at each look, and the error of the last one is raised when the training has ended.

    Args:
        tracker: an open tracker.
        folder: the run's folder.
    """

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self._tracker = tracker
        self._path = folder / METRICS
        self._seen: dict[str, int] = {}
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)

    def __enter__(self) -> TrackingFollower:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _follow(self) -> None:
        stopping = False
        while not stopping:
            # Once more after the end: the last records came since the last look.
            stopping = self._stop.wait(INTERVAL_S)
            try:
                self._hand_over()
                self._error = None
            except Exception as error:
                self._error = error

    def _hand_over(self) -> None:
        for record in read_lines(self._path):
            split, step = record["split"], record["step"]
            # Steps repeated after a restart have been handed over; a tracker cannot take them back.
            if step <= self._seen.get(split, -1):
                continue
            metrics = {f"{split}/{k}": v for k, v in record.items() if k not in STAMPS}
            self._tracker.log_metrics(metrics, step)
            # Only now: what the tracker refuses is offered again.
            self._seen[split] = step
