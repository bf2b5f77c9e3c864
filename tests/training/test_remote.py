"""Runs under Ray Train: the same steps by any number of workers, and after a kill."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.data.config import LoaderConfig
from itpn_ray.errors import DataError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.training.config import VerifyConfig
from itpn_ray.training.folder import claim, run_folder
from itpn_ray.training.journal import EVENTS, METRICS, FileJournal, read_lines
from itpn_ray.training.verify import verify_resume
from tests.training.runs import losses, tiny, train_alone

pytestmark = pytest.mark.usefixtures("ray_cluster")


def under_ray(prepared: str, out: Path, workers: str, **changes: Any) -> ExperimentConfig:
    loader = LoaderConfig(carrier="ray", threads=1, prefetch=32)
    return tiny(prepared, out, workers=workers, loader=loader, **changes)


def train(config: ExperimentConfig) -> list[dict[str, Any]]:
    from itpn_ray.training.remote import launch

    folder = run_folder(config)
    FileJournal(folder)
    launch(config, folder)
    return read_lines(folder / METRICS)


def test_two_workers_take_the_steps_of_a_process_alone(prepared: str, tmp_path: Path) -> None:
    one = losses(train_alone(tiny(prepared, tmp_path / "one")))
    two = losses(train(under_ray(prepared, tmp_path / "two", "2")))
    assert len(one) == 8
    assert two == pytest.approx(one, rel=1e-5)


def test_a_killed_run_ends_bit_equal(prepared: str, tmp_path: Path) -> None:
    config = under_ray(prepared, tmp_path, "2")
    claim(config, "itpn-ray pretrain nano")
    verdict = verify_resume(
        VerifyConfig(run=str(run_folder(config)), steps=40, every_steps=5, kills=1, seed=1)
    )
    assert len(verdict.kills) == 1
    assert verdict.repeated > 0
    assert verdict.equal
    killed = run_folder(config) / "verify/killed"
    assert [e["event"] for e in read_lines(killed / EVENTS)].count("resume") == 1


def test_an_error_that_stays_ends_the_run_at_once(prepared: str, tmp_path: Path) -> None:
    config = under_ray(prepared, tmp_path, "1")
    config = dataclasses.replace(config, data=str(tmp_path / "gone"), max_failures=3)
    with pytest.raises(DataError, match="gone"):
        train(config)
