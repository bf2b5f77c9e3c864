"""Ctrl-C in a run: the workers save a checkpoint first; a second one ends the run at once."""

from __future__ import annotations

import time
from types import FrameType

from itpn_ray.interrupt import Interrupted
from itpn_ray.runs.journal import STATUS, FileJournal


class StopRequest:
    """The driver's answer to SIGINT and SIGTERM while its workers train.

    Args:
        journal: of the run, in the folder that the workers' records reach.
    """

    def __init__(self, journal: FileJournal) -> None:
        self._journal = journal
        self._begin = time.time()
        self._asked: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Ask the workers to save and leave.

        Raises:
            Interrupted: this is the second signal, or no worker trains yet.
        """
        del frame
        if self._asked is not None or not self._training():
            raise Interrupted(number)
        self._asked = number
        self._journal.ask_to_stop()
        self._journal.event("interrupt", message="saving a checkpoint; once more ends at once")

    def _training(self) -> bool:
        """Whether a worker has written its status since the run was started."""
        written = (self._journal.folder / STATUS).glob("rank-*.json")
        return any(path.stat().st_mtime >= self._begin for path in written)

    def check(self) -> None:
        """Call it once the workers have left.

        Raises:
            Interrupted: they were asked to.
        """
        if self._asked is not None:
            raise Interrupted(self._asked)
