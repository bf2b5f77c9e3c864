"""Two workers without Ray: what one of them meets, all of them act on."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessRaisedException

from itpn_ray.runs.journal import EVENTS, METRICS, read_lines
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask
from itpn_ray.training.claim import run_folder
from tests.training.group import hang, poison, train_in_group
from tests.training.runs import losses, tiny, train_alone


@pytest.mark.workers
def test_numbers_gone_bad_on_one_worker_update_none(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny(prepared, tmp_path / "two"), eval_every=-1, workers="2")
    train_in_group(config, 2, functools.partial(poison, 3, 1))
    skips = [e for e in read_lines(run_folder(config) / EVENTS) if e["event"] == "skip"]
    assert sorted((e["step"], e["rank"]) for e in skips) == [(2, 0), (2, 1)]

    with monkeypatch.context() as patch:
        patch.setattr(PixelPretrainingTask, "prepare", PixelPretrainingTask.prepare)
        poison(3, 0, 0)
        alone = dataclasses.replace(config, out=str(tmp_path / "one"), workers="0")
        expected = losses(train_alone(alone))
    found = losses(read_lines(run_folder(config) / METRICS))
    assert math.isnan(found.pop(2))
    assert math.isnan(expected.pop(2))
    assert found == pytest.approx(expected, rel=1e-5)  # two workers take the steps of one


@pytest.mark.workers
def test_a_hung_worker_is_found_in_the_time_given(prepared: str, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny(prepared, tmp_path), eval_every=-1, hang_timeout_s=20.0)
    with pytest.raises(ProcessRaisedException, match=r"[Tt]imed out"):
        train_in_group(config, 2, functools.partial(hang, 3, 1))
    records = read_lines(run_folder(config) / METRICS)
    assert [record["step"] for record in records] == [1, 2]
