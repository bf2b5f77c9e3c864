"""The kill test, without a run: what is killed when, and what counts as a test."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.commands.verify_resume import run as verifying
from itpn_ray.commands.verify_resume.config import VerifyConfig
from itpn_ray.commands.verify_resume.run import Killer, _short
from itpn_ray.errors import DataError, RunError
from itpn_ray.runs.journal import STATUS, FileJournal
from itpn_ray.training.claim import claim_run, run_folder
from tests.data.made import write_dataset
from tests.training.runs import tiny


class Watched:
    """A killer of a run whose workers are numbers, and what it has killed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, kills: int) -> None:
        self.journal = FileJournal(folder)
        self.killed: list[int] = []
        self.ended: set[int] = set()
        monkeypatch.setattr(verifying, "_steps_per_epoch", lambda config: 4)
        monkeypatch.setattr(verifying, "kill", self._kill)
        self.killer = Killer(tiny("", folder), kills, seed=0)
        self.killer._folder = folder

    def _kill(self, pid: int) -> None:
        if pid in self.ended:
            raise ProcessLookupError
        self.killed.append(pid)

    def tell(self, rank: int, pid: int) -> None:
        status = self.journal.folder / STATUS / f"rank-{rank}.json"
        status.write_text(json.dumps({"rank": rank, "pid": pid}))

    def step(self, step: int, pids: Any = ()) -> None:
        for rank, pid in enumerate(pids):
            self.tell(rank, pid)
        self.journal.metrics("train", step, 0.0, {"loss": 1.0})
        self.killer._look()


def test_a_kill_waits_for_a_worker_that_lives_and_each_for_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, monkeypatch, kills=2)
    watched.step(7)  # past both steps, and no worker has told its status
    assert not watched.killed
    watched.ended = {10, 11}
    watched.step(7, (10, 11))
    assert not watched.killed
    watched.ended = set()
    watched.step(7, (12, 13))
    assert len(watched.killed) == 1
    watched.step(7, (12, 13))  # the other worker has one step more to tell, and ends
    assert len(watched.killed) == 1
    with pytest.raises(RunError, match="kills = 2: the run ended after 1 of them"):
        watched.killer.check()
    watched.tell(0, 14)  # back with one worker only
    watched.step(7)
    assert watched.killed[1:] == [14]
    watched.killer.check()


def test_what_ends_the_watching_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path, monkeypatch, kills=1)
    (tmp_path / "metrics.jsonl").write_text("no record\n")
    watched.killer.start(tmp_path)
    watched.killer._thread.join(10.0)
    watched.killer.stop()
    with pytest.raises(DataError):
        watched.killer.check()


def test_a_run_that_keeps_its_best_is_tested_too(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", {"train": [20], "val": [4]})
    plain = tiny(data, tmp_path / "out", eval_every=1, early_stopping=2)
    kept = dataclasses.replace(plain.checkpoint, keep_best=True)
    config = dataclasses.replace(plain, checkpoint=kept)
    claim_run(config, "")
    short = _short(VerifyConfig(run=str(run_folder(config))))
    assert (short.eval_every, short.early_stopping) == (-1, 0)
    assert not short.checkpoint.keep_best
