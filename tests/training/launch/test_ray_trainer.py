"""Runs under Ray Train: the same steps by any number of workers, and after a kill."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from itpn_ray.commands.verify_resume.config import VerifyConfig
from itpn_ray.commands.verify_resume.run import verify_resume
from itpn_ray.data.config import LoaderConfig
from itpn_ray.errors import DataError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.ray_runtime import compat, train_compat
from itpn_ray.runs.journal import EVENTS, METRICS, FileJournal, RemoteJournal, read_lines
from itpn_ray.training.claim import claim_run, run_folder
from tests.training.runs import losses, tiny, train_alone

pytestmark = pytest.mark.usefixtures("ray_cluster")


def under_ray(prepared: str, out: Path, workers: str, **changes: Any) -> ExperimentConfig:
    loader = LoaderConfig(transport="ray", threads=1, prefetch=32)
    return tiny(prepared, out, workers=workers, loader=loader, **changes)


def train(config: ExperimentConfig) -> list[dict[str, Any]]:
    from itpn_ray.training.launch.ray_trainer import launch

    folder = run_folder(config)
    FileJournal(folder)
    launch(config, folder)
    return read_lines(folder / METRICS)


def test_two_workers_take_the_steps_of_a_process_alone(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster, where an actor beside the driver keeps the journal."""
    from itpn_ray.training.launch import ray_trainer

    monkeypatch.setattr(ray_trainer, "is_private", lambda: False)
    assert isinstance(ray_trainer._journal(tmp_path), RemoteJournal)
    one = losses(train_alone(tiny(prepared, tmp_path / "one")))
    two = losses(train(under_ray(prepared, tmp_path / "two", "2")))
    assert len(one) == 8
    assert two == pytest.approx(one, rel=1e-5)


def test_a_killed_run_ends_bit_equal(prepared: str, tmp_path: Path) -> None:
    config = under_ray(prepared, tmp_path, "2")
    claim_run(config, "itpn-ray pretrain nano")
    verdict = verify_resume(
        VerifyConfig(run=str(run_folder(config)), steps=40, every_steps=5, kills=1, seed=1)
    )
    assert len(verdict.kills) == 1
    assert verdict.repeated > 0
    assert verdict.equal
    killed = run_folder(config) / "verify/killed"
    assert [e["event"] for e in read_lines(killed / EVENTS)].count("resume") == 1


def _fail(config: dict[str, Any]) -> None:
    """A training function: say that it ran and beside whom, and fail, or wait for the other."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    with Path(config["path"]).open("a") as file:
        file.write(f"{rank}\n")
    raylet = psutil.Process().parent()
    assert raylet is not None
    names = [" ".join(process.cmdline()) for process in raylet.children()]
    Path(config["beside"]).write_text("\n".join(names))
    if rank == 1:
        raise DataError("shard-7.arrow", None, "is broken", "Make it anew")
    time.sleep(600)


def test_an_error_of_ours_restarts_nothing_and_no_helper_without_work_runs(tmp_path: Path) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

    from itpn_ray.ray_runtime.start import environment
    from itpn_ray.training.launch.ray_trainer import error_of_ours, must_end

    trainer = train_compat.trainer_class(private=True, must_end=must_end)(
        _fail,
        train_loop_config={"path": str(tmp_path / "ran"), "beside": str(tmp_path / "beside")},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            name="fails", storage_path=str(tmp_path), failure_config=FailureConfig(max_failures=3)
        ),
    )
    with environment(compat.UNWATCHED), pytest.raises(TrainingFailedError) as caught:
        trainer.fit()
    assert str(error_of_ours(caught.value)) == "shard-7.arrow: is broken. Make it anew."
    assert sorted((tmp_path / "ran").read_text().split()) == ["0", "1"]
    actors = (tmp_path / "beside").read_text()
    assert "ray::TrainController" in actors
    for helper in ("DatasetManager", "PlacementGroupCleaner", "PreemptionWatcher"):
        assert helper not in actors


def test_an_error_that_stays_ends_the_run_at_once(prepared: str, tmp_path: Path) -> None:
    config = under_ray(prepared, tmp_path, "1")
    config = dataclasses.replace(config, data=str(tmp_path / "gone"), max_failures=3)
    with pytest.raises(DataError, match="gone"):
        train(config)
