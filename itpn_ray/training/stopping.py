"""Ctrl-C in a run, or its cap: the workers save a checkpoint first; a second time ends at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from itpn_ray.errors import CapReached
from itpn_ray.interrupt import Interrupted
from itpn_ray.runs.journal import STATUS, FileJournal


class StopRequest:
    """The driver's answer to SIGINT and SIGTERM, and to costs, while its workers train.

    Args:
        journal: of the run, in the folder that the workers' records reach.
    """

    def __init__(self, journal: FileJournal) -> None:
        self._journal = journal
        self._begin = time.time()
        self._asked: int | None = None
        self._capped: CapReached | None = None
        self._ended = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Ask the workers to save and leave.

        Raises:
            Interrupted: they were asked already, or no worker trains yet.
        """
        del frame
        # A second signal, or one that no step would answer, ends at once.
        if self._asked is not None or self._capped is not None or not self._training():
            raise Interrupted(number)
        self._asked = number
        self._journal.ask_to_stop()
        self._journal.event("interrupt", message="saving a checkpoint; once more ends at once")

    def cap(self, reason: CapReached, *, at_once: bool) -> None:
        """Ask the workers to save and leave, for the run has cost what it may; from any thread.

        Args:
            reason: what `check` then raises.
            at_once: there is no time left to save.
        """
        # The first reason stays, for the cap is passed again at every look.
        first, self._capped = self._capped is None, self._capped or reason
        if first:
            self._journal.ask_to_stop()
            self._journal.event("cap", message="saving a checkpoint, then the run ends")
        # Before a worker trains nobody would see the request.
        if not self._ended and (at_once or (first and not self._training())):
            # Once, for the next look would strike whatever the end itself does.
            self._ended = True
            _interrupt_main_thread()

    def _training(self) -> bool:
        """Whether a worker has written its status since the run was started."""
        # Files of an earlier start do not count.
        written = (self._journal.folder / STATUS).glob("rank-*.json")
        return any(path.stat().st_mtime >= self._begin for path in written)

    def check(self) -> None:
        """Call it once the workers have left.

        Raises:
            CapReached: they were asked to because of the costs.
            Interrupted: they were asked to by a signal.
        """
        if self._capped is not None:
            raise self._capped
        if self._asked is not None:
            raise Interrupted(self._asked)


class SweepStop:
    """A sweep's cap: it ends at once, for each trial goes on from its own last checkpoint."""

    def __init__(self) -> None:
        self._capped: CapReached | None = None

    def cap(self, reason: CapReached, *, at_once: bool) -> None:
        """End the sweep; from any thread."""
        del at_once
        if self._capped is None:
            self._capped = reason
            _interrupt_main_thread()

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Raise, for what the cap interrupts inside the ``with`` block, why it did.

        Raises:
            CapReached: the sweep has cost what it may.
        """
        try:
            yield
        except KeyboardInterrupt:
            if self._capped is not None:
                raise self._capped from None
            raise


def _interrupt_main_thread() -> None:
    """Send a signal, for only that ends what the main thread waits for."""
    # Sent to that thread, so that a call it waits in is interrupted too.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
