"""How long a run took, and how much of that its stops have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Event = Mapping[str, Any]
_BEGINS = ("start", "restart")


@dataclass(frozen=True, kw_only=True)
class Restart:
    """The run went on from a checkpoint.

    Attributes:
        time: when, Unix seconds.
        step: the checkpoint's.
        workers: how many went on.
        lost: seconds from the checkpoint to going on: work done again, and waiting. The time in
            which no driver ran is not counted.
    """

    time: float
    step: int
    workers: int | None
    lost: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A run's time.

    Attributes:
        seconds: in which a driver ran, as far as events tell.
        restarts: in order.
    """

    seconds: float
    restarts: tuple[Restart, ...]

    @property
    def lost(self) -> float:
        """Seconds lost to restarts."""
        return sum(restart.lost for restart in self.restarts)


def timeline(events: Sequence[Event], last_sign: float = 0.0) -> Timeline:
    """Read a run's events.

    Args:
        events: by time.
        last_sign: time of the last record of any other kind, for a run that has no end.
    """
    gaps = _gaps(events)
    if not events:
        return Timeline(seconds=0.0, restarts=())
    # A run that was killed has no last event: its last record tells how far it came.
    finish = max(float(events[-1]["time"]), last_sign)
    # Between a run's end and its next start no time is spent.
    whole = finish - float(events[0]["time"]) - sum(end - begin for begin, end in gaps)
    return Timeline(
        seconds=max(whole, 0.0),
        restarts=tuple(_restart(e, gaps) for e in events if e["event"] == "resume"),
    )


def _gaps(events: Sequence[Event]) -> list[tuple[float, float]]:
    """Spans in which no driver ran: from the last event before a driver's start to that start."""
    return [
        (float(before["time"]), float(event["time"]))
        for before, event in pairwise(events)
        if event["event"] in _BEGINS
    ]


def _restart(event: Event, gaps: Sequence[tuple[float, float]]) -> Restart:
    now = float(event["time"])
    saved = float(event.get("saved", now))
    # The time in which nobody trained is not lost to the restart.
    idle = sum(max(0.0, min(end, now) - max(begin, saved)) for begin, end in gaps)
    return Restart(
        time=now,
        step=int(event["step"]),
        workers=event.get("workers"),
        lost=max(now - saved - idle, 0.0),
    )
