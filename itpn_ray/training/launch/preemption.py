"""The notice that this machine is about to be taken away: SIGTERM, or Ray's draining of the node.

Clouds and Kubernetes announce the end of a machine seconds to minutes ahead. ``ray start --block``
turns its own SIGTERM into a drain, which Ray Train tells every worker; a process that trains
without Ray gets the signal itself.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from itpn_ray.ray_runtime import compat


class PreemptionNotice:
    """Call it at each step: true once the machine is to go. Costs nanoseconds, no communication.

    Only the process at hand is asked, so ranks may see a notice at different steps: they agree by a
    collective before they act on it. A second SIGTERM ends the process at once.

    Use as a context manager; the signal is caught only in a process's main thread.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._previous: Any = None
        self._told: Any = None

    def __enter__(self) -> PreemptionNotice:
        # A process that Ray Train did not start need not import it to learn so.
        self._told = compat.preemption() if "ray.train" in sys.modules else None
        # Python lets only the main thread answer signals.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def __call__(self) -> bool:
        """Whether this machine is about to be taken away."""
        return self._signalled or self._info() is not None

    @property
    def deadline(self) -> float | None:
        """When the machine goes, in seconds since 1970, as far as Ray knows."""
        info = self._info()
        return info.deadline_ms / 1000 if info is not None and info.deadline_ms else None

    def _info(self) -> Any:
        return self._told.preemption_info if self._told is not None else None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # No more than this in a handler: the step at hand may hold any lock.
        self._signalled = True
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None
