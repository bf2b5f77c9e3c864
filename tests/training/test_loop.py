"""The loop: what a step is, what a stop costs, what a bad step does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from itpn_ray.errors import CheckpointError, RunError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.runs.journal import EVENTS, read_lines
from itpn_ray.tasks.pixel_pretraining.task import MaskedPretrainingNetwork
from itpn_ray.training.claim import run_folder
from itpn_ray.training.replay import replay
from tests.training.runs import (
    Stop,
    classification,
    final_digest,
    losses,
    stop_at,
    tiny,
    train_alone,
    train_and_stop,
)

KINDS = pytest.mark.parametrize("make", [tiny, classification], ids=["pixel", "classification"])
Make = Callable[..., ExperimentConfig]


@KINDS
def test_a_run_writes_what_it_promises(make: Make, prepared: str, tmp_path: Path) -> None:
    config = make(prepared, tmp_path)
    records = train_alone(config)
    assert [r["step"] for r in records if r["split"] == "train"] == list(range(1, 9))
    assert any(r["split"] == "val" and r["step"] == 8 for r in records)
    assert (run_folder(config) / "checkpoints/last").exists()
    assert list((run_folder(config) / "plots").glob("*.png"))


@KINDS
def test_a_stopped_run_ends_bit_equal(
    make: Make, prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(prepared, tmp_path / "whole")
    expected = losses(train_alone(whole))
    stopped = make(prepared, tmp_path / "stopped")
    train_and_stop(stopped, monkeypatch, 5)
    assert losses(train_alone(stopped)) == expected
    assert final_digest(stopped) == final_digest(whole)
    resumed = [e for e in read_lines(run_folder(stopped) / EVENTS) if e["event"] == "resume"]
    assert [event["step"] for event in resumed] == [3]


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(prepared, tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Stop):
            train_alone(config)
    assert [r["step"] for r in train_alone(config) if r["split"] == "train"] == list(range(1, 9))


@pytest.mark.rounding
@KINDS
def test_micro_batches_make_the_same_step(make: Make, prepared: str, tmp_path: Path) -> None:
    whole = make(prepared, tmp_path / "whole")
    optim = dataclasses.replace(whole.optim, micro_batch=6)
    split = make(prepared, tmp_path / "split", optim=optim)
    assert losses(train_alone(split)) == pytest.approx(losses(train_alone(whole)), rel=1e-5)


def test_feature_terms_are_logged_apart_and_add_up(prepared: str, tmp_path: Path) -> None:
    record = next(r for r in train_alone(tiny(prepared, tmp_path)) if r["split"] == "train")
    features = sum(record[f"mfm_stage{stage}"] for stage in (1, 2, 3))
    assert record["loss"] == pytest.approx(record["mim"] + 0.3 * features, rel=1e-5)


def test_without_feature_loss_there_is_no_teacher(prepared: str, tmp_path: Path) -> None:
    base = tiny(prepared, tmp_path)
    config = dataclasses.replace(base, task=dataclasses.replace(base.task, feature_weight=0.0))
    record = next(r for r in train_alone(config) if r["split"] == "train")
    assert record["loss"] == record["mim"]
    assert not any(name.startswith("mfm") for name in record)


def test_a_step_that_is_not_finite_changes_nothing_and_a_row_of_them_ends_the_run(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(prepared, tmp_path)
    config = dataclasses.replace(
        config, optim=dataclasses.replace(config.optim, max_skipped_steps=2)
    )
    forward = MaskedPretrainingNetwork.forward
    calls = 0

    def sick(self: MaskedPretrainingNetwork, batch: dict) -> dict:
        nonlocal calls
        calls += 1
        terms = forward(self, batch)
        return {**terms, "loss": terms["loss"] * (float("nan") if calls > 3 else 1.0)}

    with monkeypatch.context() as patch:
        patch.setattr(MaskedPretrainingNetwork, "forward", sick)
        with pytest.raises(RunError, match="not finite for 2 steps in a row, the last one step 4"):
            train_alone(config)
    folder = run_folder(config)
    assert [e["step"] for e in read_lines(folder / EVENTS) if e["event"] == "skip"] == [3, 4]
    (kept,) = folder.glob("replay-*.safetensors")
    assert torch.isfinite(replay(kept)["loss"])


def test_checkpoint_of_another_network_is_refused(prepared: str, tmp_path: Path) -> None:
    config = tiny(prepared, tmp_path)
    train_alone(config)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, image_size=48))
    with pytest.raises(CheckpointError, match="holds another network"):
        train_alone(other)
