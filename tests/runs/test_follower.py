"""What a run writes reaches its tracker, also where that does not answer for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from itpn_ray.runs.follower import TrackingFollower
from itpn_ray.runs.journal import FileJournal
from itpn_ray.tracking.base import MemoryTracker


class Flaky(MemoryTracker):
    """Refuses the metrics of its first calls."""

    refusals = 1

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise ConnectionError("the tracker does not answer")
        super().log_metrics(metrics, step)


def follow(tracker: Flaky, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks at two records."""
    journal = FileJournal(folder)
    for step in (1, 2):
        journal.metrics("train", step, 0.0, {"loss": float(step)})
    follower = TrackingFollower(tracker, folder)
    looks = iter([False, True])
    monkeypatch.setattr(follower._stop, "wait", lambda seconds: next(looks))
    with follower:
        pass


def test_what_a_tracker_did_not_take_is_offered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Flaky()
    tracker.start("run", {}, key="run")
    follow(tracker, tmp_path, monkeypatch)
    assert tracker.run.metrics["train/loss"] == {1: 1.0, 2: 2.0}


def test_a_tracker_that_does_not_come_back_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Flaky()
    tracker.refusals = 2
    tracker.start("run", {}, key="run")
    with pytest.raises(ConnectionError):
        follow(tracker, tmp_path, monkeypatch)
