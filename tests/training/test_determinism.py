"""Deterministic algorithms: asked for in every worker, and refused with a name."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.runs.journal import FileJournal
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.pixel_pretraining.task import MaskedPretrainingNetwork
from itpn_ray.training.claim import run_folder
from itpn_ray.training.determinism import WORKSPACE, deterministic
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.ray_trainer import _worker
from tests.training.runs import losses, tiny, train_alone


def with_an_operation_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = MaskedPretrainingNetwork.forward

    def scattering(self: MaskedPretrainingNetwork, batch: Batch) -> dict[str, torch.Tensor]:
        torch.zeros(3).put_(torch.tensor([0, 1]), torch.ones(2))
        return forward(self, batch)

    monkeypatch.setattr(MaskedPretrainingNetwork, "forward", scattering)


def test_an_operation_that_has_none_is_named(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_an_operation_that_has_none(monkeypatch)
    config = dataclasses.replace(tiny(prepared, tmp_path), deterministic=True)
    with pytest.raises(ConfigError, match="put_ has no deterministic algorithm on this device"):
        train_alone(config)
    assert not torch.are_deterministic_algorithms_enabled()
    assert len(losses(train_alone(dataclasses.replace(config, deterministic=False)))) == 8


def test_a_worker_of_ray_is_asked_too(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Ray Train calls in each worker, here in this process."""
    with_an_operation_that_has_none(monkeypatch)
    here = TrainContext.alone(gpu=False, threads=1)
    monkeypatch.setattr(TrainContext, "in_group", staticmethod(lambda config: here))
    config = dataclasses.replace(tiny(prepared, tmp_path), deterministic=True)
    payload = {"config": to_dict(config), "reports": False, "files": {}, "token": ""}
    with pytest.raises(ConfigError, match="put_ has no deterministic algorithm"):
        _worker({**payload, "journal": FileJournal(run_folder(config))})


def test_threads_that_add_in_any_order_add_in_one() -> None:
    """Where several threads add gradients of one row, their order is in the last bits."""
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(50, 64, requires_grad=True)
    rows = torch.randint(50, (8192,), generator=generator)
    weights = torch.randn(8192, 64, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with deterministic(True):
            found = [torch.autograd.grad((table[rows] * weights).sum(), table) for _ in range(5)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0][0]) for (gradient,) in found)


def test_the_mode_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")  # somebody's own choice stays
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert os.environ[WORKSPACE] == ":16:8"
    monkeypatch.delenv(WORKSPACE)
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    assert WORKSPACE not in os.environ
    with deterministic(True):
        assert os.environ[WORKSPACE] == ":4096:8"
    monkeypatch.delenv(WORKSPACE)
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="another"), deterministic(True):
        raise RuntimeError("another")


def test_it_is_part_of_the_settings_and_refuses_compiled_networks() -> None:
    config = ExperimentConfig(deterministic=True)
    assert from_dict(to_dict(config)).deterministic
    with pytest.raises(ConfigError, match="chosen by their speed"):
        ExperimentConfig(deterministic=True, model=ModelConfig(compile=True))
