"""The run's diary: metrics, events, worker status and images, in the run's folder.

Workers on the driver's machine write there themselves. In a cluster they may run elsewhere: their
records travel to an actor beside the driver (``itpn_ray.training.launch.ray_trainer``).

Imports neither PyTorch nor Ray, but where Ray is at hand: the actor's process starts in a fraction
of a worker's time.
"""

from __future__ import annotations

import json
import os
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from itpn_ray.errors import DataError

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
RESULTS = "results.json"
STATUS = "status"
STOP = "stop"
"""A file that is there while the driver asks the workers to save a checkpoint and leave."""
ASK_EVERY_S = 1.0
"""Seconds between two questions to a journal elsewhere."""
PLOTS = "plots"


class Journal(ABC):
    """Where records of a run go."""

    @abstractmethod
    def write(self, kind: str, record: dict[str, Any]) -> None:
        """Take one record; ``kind`` is one of metrics, event, status, file, rewind, result."""

    def metrics(self, split: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """Metrics of a split at a step."""
        stamp = {"step": step, "epoch": round(epoch, 4), "split": split, "time": time.time()}
        self.write("metrics", {**stamp, **values})

    def event(self, name: str, **fields: Any) -> None:
        """Something that happened: start, resume, restart, checkpoint, skip, end."""
        self.write("event", {"time": time.time(), "event": name, **fields})

    def status(self, rank: int, **fields: Any) -> None:
        """What a worker, this process, does right now; only the newest is kept."""
        where = {"host": socket.gethostname(), "pid": os.getpid()}
        self.write("status", {"rank": rank, "time": time.time(), **where, **fields})

    def file(self, name: str, content: bytes) -> None:
        """A small file for the run's folder, e.g. an image for the report in plots/."""
        self.write("file", {"name": name, "content": content})

    def rewind(self, step: int) -> None:
        """Drop the metrics after ``step``: the run repeats them."""
        self.write("rewind", {"step": step})

    def result(self, **fields: Any) -> None:
        """Final metrics, merged into results.json."""
        self.write("result", fields)

    @abstractmethod
    def stop_asked(self) -> bool:
        """Whether the driver asks the workers to save a checkpoint and leave."""


class FileJournal(Journal):
    """Writes into the run's folder; each append is one write, each replacement is atomic.

    So the processes of a run may have one each: metrics, results and rewinds come from rank 0.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        for name in (STATUS, PLOTS):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def write(self, kind: str, record: dict[str, Any]) -> None:
        """Take one record."""
        if kind == "metrics":
            self._append(METRICS, record)
        elif kind == "event":
            self._append(EVENTS, record)
        elif kind == "status":
            path = self.folder / STATUS / f"rank-{record['rank']}.json"
            self._replace(path, json.dumps(record).encode())
        elif kind == "file":
            self._replace(self.folder / record["name"], record["content"])
        elif kind == "rewind":
            self._drop_after(record["step"])
        elif kind == "result":
            path = self.folder / RESULTS
            merged = json.loads(path.read_text()) if path.exists() else {}
            self._replace(path, json.dumps({**merged, **record}, indent=1).encode())
        else:
            raise ValueError(f"unknown kind of record {kind!r}")

    def stop_asked(self) -> bool:
        """See `Journal.stop_asked`; microseconds."""
        return (self.folder / STOP).exists()

    def ask_to_stop(self) -> None:
        """Ask the workers to save a checkpoint and leave."""
        (self.folder / STOP).touch()

    def take_back_stop(self) -> None:
        """Ask no longer: the run starts, or has ended."""
        (self.folder / STOP).unlink(missing_ok=True)

    def _append(self, name: str, record: dict[str, Any]) -> None:
        # One write a line: the system appends it whole, whoever else writes.
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _replace(self, path: Path, content: bytes) -> None:
        # By process: ranks of one machine replace files at the same time.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)

    def _drop_after(self, step: int) -> None:
        path = self.folder / METRICS
        if not path.exists():
            return
        # Else a curve would go back and forth where a run was resumed.
        kept = [record for record in read_lines(path) if record["step"] <= step]
        self._replace(path, "".join(json.dumps(record) + "\n" for record in kept).encode())


class RemoteJournal(Journal):
    """Sends each record to an actor that is a `FileJournal`, and does not wait."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper
        self._asked_at = 0.0
        self._stop = False

    def write(self, kind: str, record: dict[str, Any]) -> None:
        """Send one record."""
        # Calls of one process arrive in order, so nothing has to wait for an answer.
        self._keeper.write.remote(kind, record)

    def stop_asked(self) -> bool:
        """See `Journal.stop_asked`; the driver is asked once a second, which takes milliseconds."""
        import ray

        if time.monotonic() - self._asked_at > ASK_EVERY_S:
            self._stop = ray.get(self._keeper.stop_asked.remote())
            self._asked_at = time.monotonic()
        return self._stop


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a .jsonl file; a last line that a killed driver cut short is left out.

    Raises:
        DataError: a line holds something else.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [
        parse_record(path, number, line)
        for number, line in enumerate(lines, start=1)
        # A line without an end is still being written.
        if line.endswith("\n")
    ]


def parse_record(path: Path, line: int, text: str) -> dict[str, Any]:
    """A JSON object that stands at a line of a file.

    Raises:
        DataError: it is none.
    """
    try:
        record = json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        line, record = line + error.lineno - 1, None
    if not isinstance(record, dict):
        raise DataError(f"{path}:{line}", None, "is no JSON object", "Fix or remove it")
    return record
