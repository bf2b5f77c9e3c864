"""FSDP2: the same training as DDP, and checkpoints that do not know of it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from itpn_ray.experiment import ExperimentConfig
from itpn_ray.models.layers.blocks import Attention
from itpn_ray.runs.journal import EVENTS, METRICS, read_lines
from itpn_ray.training.claim import run_folder
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.process import open_checkpoints
from tests.training.group import expect_half, leave_after_half, train_each_in_group, train_in_group
from tests.training.runs import classification, losses, tiny, train_alone


def sharded(config: ExperimentConfig) -> ExperimentConfig:
    """The run by two workers that share one state, with accumulation and clipping."""
    optim = dataclasses.replace(config.optim, micro_batch=4, clip_norm=0.5)
    return dataclasses.replace(config, workers="2", sharded=True, optim=optim)


def alone(config: ExperimentConfig, out: Path) -> list[dict[str, Any]]:
    return train_alone(dataclasses.replace(config, out=str(out), workers="0"))


@pytest.mark.workers
def test_two_sharded_workers_train_as_one(prepared: str, tmp_path: Path) -> None:
    plain = sharded(classification(prepared, tmp_path / "two"))
    # r = 0 while the network is sharded, and above it in the steps.
    model = dataclasses.replace(plain.model, elastic_migration=(0.0, 0.4))
    elastic = dataclasses.replace(plain, run="elastic", model=model)
    train_each_in_group([plain, elastic], 2, expect_half)
    one_of_thirty = 0.034  # two classes may be equally likely to the last digits
    exact = {"rel": 1e-4}
    likely = {"abs": one_of_thirty}
    for config, names in (
        (plain, {"grad_norm": exact, "top1": likely}),
        (elastic, {"grad_norm": exact, "top1": likely, "top1_r0.4": likely}),
    ):
        found = read_lines(run_folder(config) / METRICS)
        expected = alone(config, tmp_path / "one")
        assert losses(found) == pytest.approx(losses(expected), rel=1e-5)
        for name, tolerance in names.items():
            theirs = [r[name] for r in expected if name in r]
            assert theirs
            assert [r[name] for r in found if name in r] == pytest.approx(theirs, **tolerance)


@pytest.mark.workers
def test_a_sharded_run_stops_and_goes_on_alone(prepared: str, tmp_path: Path) -> None:
    config = sharded(tiny(prepared, tmp_path / "parts"))
    train_in_group(config, 2, functools.partial(leave_after_half, 5))
    found = train_alone(config)
    assert losses(found) == pytest.approx(losses(alone(config, tmp_path / "whole")), rel=1e-5)
    resumed = [e for e in read_lines(run_folder(config) / EVENTS) if e["event"] == "resume"]
    assert [event["step"] for event in resumed] == [5]


def compute_in_bf16(rank: int) -> None:
    """Let this process compute as on a GPU; blocks must see their weights in bf16."""
    expect_half(rank)
    TrainContext.bf16 = property(lambda worker: True)  # type: ignore[assignment,method-assign]
    project = Attention.project

    def checked(attention: Attention, x: Tensor) -> Any:
        if attention.training:
            assert attention.qkv.weight.dtype == torch.bfloat16
        return project(attention, x)

    Attention.project = checked  # type: ignore[method-assign]


@pytest.mark.workers
@pytest.mark.parametrize("make", [classification, tiny])
def test_sharded_weights_are_gathered_in_bf16_and_kept_in_float32(
    make: Any, prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(sharded(make(prepared, tmp_path / "two")), eval_every=-1)
    train_in_group(config, 2, compute_in_bf16)
    found = losses(read_lines(run_folder(config) / METRICS))
    exact = losses(alone(config, tmp_path / "float32"))
    monkeypatch.setattr(TrainContext, "bf16", property(lambda worker: True))
    usual = losses(alone(config, tmp_path / "bf16"))
    assert found == pytest.approx(usual, rel=0.02)
    assert found == pytest.approx(exact, rel=0.02)
    checkpoint = open_checkpoints(config).latest_good()
    assert checkpoint is not None
    saved = checkpoint.load("network", "optimizer")["network"]
    floats = [tensor for tensor in saved.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    # More digits than bf16 has: it is the float32 weights that the optimiser moves.
    assert any((tensor.bfloat16().float() != tensor).any() for tensor in floats)
