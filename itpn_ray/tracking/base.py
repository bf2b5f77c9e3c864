"""What a run tells a tracker, and the two trackers that need nothing: Noop and Memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from itpn_ray.tracking.redact import redact_value

RunStatus = Literal["FINISHED", "FAILED", "INTERRUPTED", "CAPPED"]
Parameters = Mapping[str, object]


def flatten(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """A nested plain dict as dotted names: ``{"optim": {"lr": 1}}`` -> ``{"optim.lr": 1}``."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """The data that a run trains on.

    Attributes:
        uri: where it lies.
        digest: SHA-256 (hex) of its content.
        images: number of each split.
    """

    uri: str
    digest: str
    images: Mapping[str, int]


class Tracker(ABC):
    """One run's record. Steps are global optimiser steps; a run is known by its key."""

    @abstractmethod
    def start(
        self, run_name: str, params: Parameters, *, key: str, parent: str | None = None
    ) -> None:
        """Open the run of this key: a new one, or the same one again when it exists.

        Args:
            run_name: what people read.
            params: flat dict of parameters; secrets in it are hidden.
            key: what identifies the run across restarts: its folder, or the trial's id.
            parent: key of the run that this one is nested in.

        Raises:
            ConfigError: the tracker cannot be reached or written.
        """

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics of one step. A step that a metric already has is not recorded again."""

    @abstractmethod
    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Keep a copy of a file under a folder of the run; secrets in text files are hidden."""

    def log_source(self, command: str, data: DataSource) -> None:
        """Record what the run is made from: the command, this package's commit, the data."""
        del command, data

    def log_model(self, weights: Path, name: str) -> None:
        """Keep the trained network as a model that answers, registered under a name."""
        del weights, name

    @abstractmethod
    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Close the run."""

    @property
    @abstractmethod
    def where(self) -> str:
        """One line that tells people where to look; empty when there is nothing to see."""


class NoopTracker(Tracker):
    """Tracks nothing."""

    def start(
        self, run_name: str, params: Parameters, *, key: str, parent: str | None = None
    ) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Do nothing."""

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Do nothing."""

    @property
    def where(self) -> str:
        """Nowhere."""
        return ""


@dataclass
class MemoryRun:
    """What a `MemoryTracker` remembers of one run."""

    name: str
    parent: str | None
    params: dict[str, str]
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    status: str = "RUNNING"


class MemoryTracker(Tracker):
    """Tracks in plain dicts, for tests. Trackers that share ``runs`` share a record."""

    def __init__(self, runs: dict[str, MemoryRun] | None = None) -> None:
        self.runs: dict[str, MemoryRun] = {} if runs is None else runs
        self._run: MemoryRun | None = None

    @property
    def run(self) -> MemoryRun:
        """The run that is open, or was last."""
        if self._run is None:
            raise RuntimeError("start() comes before anything else is tracked")
        return self._run

    def start(
        self, run_name: str, params: Parameters, *, key: str, parent: str | None = None
    ) -> None:
        """Open or reopen the run of this key."""
        hidden = {name: redact_value(name, value) for name, value in params.items()}
        run = self.runs.setdefault(key, MemoryRun(name=run_name, parent=parent, params={}))
        run.params = {**hidden, **run.params}
        run.status = "RUNNING"
        self._run = run

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Remember each metric at its step, the first time."""
        for name, value in metrics.items():
            self.run.metrics.setdefault(name, {}).setdefault(step, float(value))

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Remember the file's place in the run."""
        place = f"{folder}/{Path(path).name}" if folder else Path(path).name
        if place not in self.run.artifacts:
            self.run.artifacts.append(place)

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Close the run."""
        self.run.status = status

    @property
    def where(self) -> str:
        """Nowhere that people can look."""
        return ""
