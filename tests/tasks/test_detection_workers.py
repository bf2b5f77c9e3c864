"""Detection by two workers: the same steps and the same figures as by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from itpn_ray.runs.journal import METRICS, read_lines
from itpn_ray.training.claim import run_folder
from tests.tasks.detection_runs import detection
from tests.training.group import train_in_group
from tests.training.runs import losses, train_alone


@pytest.mark.workers
@pytest.mark.parametrize("sharded", [False, True])
def test_two_workers_take_the_steps_of_one(scenes: str, tmp_path: Path, sharded: bool) -> None:
    """With shares of two and four images, joint normalisation and joint normalisers."""
    alone = detection(scenes, tmp_path / "one")
    optim = dataclasses.replace(alone.optim, global_batch=6, epochs=2)
    alone = dataclasses.replace(alone, optim=optim)
    records = train_alone(alone)
    together = dataclasses.replace(alone, out=str(tmp_path / "two"), workers="2", sharded=sharded)
    train_in_group(together, 2)
    found = read_lines(run_folder(together) / METRICS)
    # Few digits: with the order of sums, picks among nearly equal proposals change.
    assert losses(found) == pytest.approx(losses(records), rel=1e-2)
    (first,), (second,) = ([r for r in part if r["split"] == "val"] for part in (records, found))
    assert second.keys() == first.keys()
    for name in ("box_AP", "mask_AP"):
        assert second[name] == pytest.approx(first[name], abs=0.01)
