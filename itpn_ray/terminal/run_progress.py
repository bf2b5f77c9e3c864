"""What is known of a run in progress: fed by the records of its folder, asked for lines of text."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itpn_ray.formatting import is_detail, show_duration, show_metric, show_value
from itpn_ray.runs.journal import EVENTS, METRICS

Record = Mapping[str, Any]
_STAMPS = {"step", "epoch", "split", "time"}
_WORDS = {"passed_over": "passed over as damaged", "in_a_row": "skipped in a row"}
"""What fields of events are called where their own name says too little."""
_SILENT_SECONDS = 30.0
_MOST_LINES = 8
_WINDOW = 20


@dataclass
class WorkerStatus:
    """The newest status of one worker, and when it came (driver's clock, seconds)."""

    status: Record
    last_seen: float

    def line(self, now: float) -> str:
        """What the worker does: ``forward``, or that nothing was heard of it."""
        silent = now - self.last_seen
        phase = str(self.status.get("phase", "working"))
        return f"silent for {show_duration(silent)}" if silent > _SILENT_SECONDS else phase


@dataclass
class RunProgress:
    """The state that a display shows. Times are the driver's clock, seconds."""

    workers: dict[int, WorkerStatus] = field(default_factory=dict)
    _paces: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _warm: bool = False

    def status(self, record: Record, last_seen: float) -> None:
        """Take a worker's status: rank, phase, step, steps, epoch, loss, images_per_s."""
        rank = int(record["rank"])
        self.workers[rank] = WorkerStatus(record, last_seen)
        step = record.get("step")
        if rank != min(self.workers) or step is None:
            return
        if self._paces and int(step) < self._paces[-1][1]:
            self._paces.clear()  # a restart went back to the last checkpoint
            self._warm = False
        if not self._paces or int(step) > self._paces[-1][1]:
            if len(self._paces) == 1 and not self._warm:
                self._paces.clear()  # first steps load libraries and are no measure of the rest
                self._warm = True
            self._paces.append((last_seen, int(step)))

    @property
    def first(self) -> Record:
        """The status of the lowest rank; empty before any came."""
        return self.workers[min(self.workers)].status if self.workers else {}

    @property
    def fraction(self) -> float:
        """Share of the steps that are done."""
        return min(self.first.get("step", 0) / max(self.first.get("steps", 1), 1), 1.0)

    @property
    def eta(self) -> float | None:
        """Seconds to the last step at the pace of late; None until there is a pace."""
        if len(self._paces) < 2 or "steps" not in self.first:
            return None
        (begun, low), (ended, high) = self._paces[0], self._paces[-1]
        if ended <= begun:
            return None
        return (self.first["steps"] - high) * (ended - begun) / (high - low)

    def line(self, now: float) -> str:
        """The whole state as one line."""
        first = self.first
        if not first:
            return "waiting for the workers"
        parts = []
        if "step" in first:
            parts.append(f"step {first['step']}/{first.get('steps', '?')}")
        if "epoch" in first:
            parts.append(f"epoch {first['epoch']:.2f}")
        if first.get("loss") is not None:
            parts.append(f"loss {first['loss']:.4f}")
        if first.get("images_per_s"):
            parts.append(f"{show_metric('images_per_s', first['images_per_s'])} images/s")
        if self.eta is not None:
            parts.append(f"ETA {show_duration(self.eta)}")
        return "  ".join([*parts, "[" + ", ".join(self._phases(now)) + "]"])

    def worker_lines(self, now: float) -> list[str]:
        """One line a worker; of many workers, how many do what."""
        if len(self.workers) > _MOST_LINES:
            return self._phases(now)
        return [
            f"worker {rank}  {worker.line(now)}" for rank, worker in sorted(self.workers.items())
        ]

    def _phases(self, now: float) -> list[str]:
        counted = Counter(worker.line(now) for worker in self.workers.values())
        return [f"{count}x {line}" if count > 1 else line for line, count in counted.most_common()]


def metrics_line(record: Record) -> str:
    """One evaluation as a line: ``val at step 200: top1 81.2 %, loss 0.4123``."""
    metrics = ", ".join(
        f"{name} {show_metric(name, value)}"
        for name, value in record.items()
        if name not in _STAMPS and isinstance(value, int | float) and not is_detail(name)
    )
    return f"{record['split']} at step {record['step']}: {metrics}"


def event_line(record: Record) -> str:
    """One event as a line: ``restart: step 120, cause killed``; what is empty is left out."""
    shown = {
        name: value
        for name, value in record.items()
        if name not in {"time", "event"} and value not in (None, "", [])
    }
    if "saved" in shown:
        shown["saved"] = time.strftime("%H:%M:%S", time.localtime(shown["saved"]))
    rest = ", ".join(
        str(value) if name == "message" else f"{_in_words(name)} {show_value(name, value)}"
        for name, value in shown.items()
    )
    event = _in_words(record["event"])
    return f"{event}: {rest}" if rest else event


def _in_words(name: str) -> str:
    """The name of an event or of a field of one, for people."""
    return _WORDS.get(name, name.replace("_", " "))


class Tail:
    """Whole new lines of a growing .jsonl file, from its end at construction on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = self._end()

    def read(self) -> Sequence[Record]:
        """The records since the last call; a file that was replaced is taken up at its end."""
        file, size = self._end()
        if (file != self._place[0] and self._place[0]) or size < self._place[1]:
            self._place = (file, size)
            return []
        if size == self._place[1]:
            return []
        with self.path.open("rb") as lines:
            lines.seek(self._place[1])
            whole = lines.read().rpartition(b"\n")[0]
        self._place = (file, self._place[1] + len(whole) + 1 if whole else self._place[1])
        return [json.loads(line) for line in whole.splitlines()]

    def _end(self) -> tuple[int, int]:
        if not self.path.exists():
            return 0, 0
        found = self.path.stat()
        return found.st_ino, found.st_size


class RunFolder:
    """Feeds a `RunProgress` from a run's folder, and returns what is worth a line of its own."""

    def __init__(self, run_dir: str | Path, progress: RunProgress) -> None:
        self._folder = Path(run_dir)
        self._progress = progress
        self._metrics = Tail(self._folder / METRICS)
        self._events = Tail(self._folder / EVENTS)
        self._since = time.time() - 1.0  # statuses of an earlier start are not this one's

    def poll(self) -> list[str]:
        """Read what is new since the last call."""
        for path in self._folder.glob("status/rank-*.json"):
            try:
                changed = path.stat().st_mtime
                record = json.loads(path.read_text())
            except FileNotFoundError:
                continue  # replaced while we looked; it is there again next time
            if changed >= self._since:
                self._progress.status(record, changed)
        lines = [event_line(record) for record in self._events.read()]
        evaluated = [r for r in self._metrics.read() if r.get("split") != "train"]
        return lines + [metrics_line(record) for record in evaluated]
