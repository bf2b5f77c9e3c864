"""A frozen trunk keeps its weights to the bit, whatever trains behind it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.models import create_model, save_model
from itpn_ray.models.trunk.base import Trunk
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.cost import FROZEN_TRUNK
from itpn_ray.training.launch.process import open_checkpoints
from itpn_ray.training.launch.setup import check_fit, make_task, open_splits
from itpn_ray.training.mfu import training_flops
from itpn_ray.training.optimizer import make_optimizer
from tests.tasks.detection_runs import detection
from tests.tasks.segmentation.test_task import segmentation
from tests.training.group import leave_after_half, train_in_group
from tests.training.runs import (
    classification,
    final_digest,
    losses,
    tiny,
    train_alone,
    train_and_stop,
)

RUNS = {"prepared": classification, "scenes": detection, "masked": segmentation}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "trunk.safetensors"
    torch.manual_seed(7)
    save_model(create_model("nano", num_classes=0, image_size=32), path)
    return path


def frozen(config: ExperimentConfig, weights: Path) -> ExperimentConfig:
    model = dataclasses.replace(config.model, init=str(weights), freeze_trunk=True)
    task = config.task
    if hasattr(task, "init_pyramid"):  # a classifier's file has none
        task = dataclasses.replace(task, init_pyramid=False)
    return dataclasses.replace(config, model=model, task=task)


def of_trunks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    marks = [f"{part}." for part in ("embed", "stage1", "merge1", "stage2", "merge2", "stage3")]
    return {n: t for n, t in state.items() if any(f".trunk.{mark}" in n for mark in marks)}


@pytest.mark.parametrize("data", RUNS)
def test_trunk_and_average_keep_their_weights(
    data: str, weights: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    make: Callable[..., ExperimentConfig] = RUNS[data]
    config = frozen(make(request.getfixturevalue(data), tmp_path), weights)
    task = make_task(config, open_splits(config)[0].classes)
    before = task.build().state_dict()
    train_alone(config)
    checkpoint = open_checkpoints(config).latest_good()
    assert checkpoint is not None
    after = checkpoint.load("network")["network"]
    kept = of_trunks(after)
    assert any(name.startswith("average.") for name in kept)
    assert all(torch.equal(before[name], tensor) for name, tensor in kept.items())
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert any("head" in name for name in changed)
    assert changed.isdisjoint(kept)


def test_a_stopped_run_ends_bit_equal(
    prepared: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = frozen(classification(prepared, tmp_path / "whole"), weights)
    expected = losses(train_alone(whole))
    stopped = frozen(classification(prepared, tmp_path / "stopped"), weights)
    train_and_stop(stopped, monkeypatch, 5)
    assert losses(train_alone(stopped)) == expected
    assert final_digest(stopped) == final_digest(whole)


@pytest.mark.workers
def test_two_sharded_workers_train_as_one(prepared: str, weights: Path, tmp_path: Path) -> None:
    whole = frozen(classification(prepared, tmp_path / "one"), weights)
    expected = losses(train_alone(whole))
    config = dataclasses.replace(whole, out=str(tmp_path / "two"), workers="2", sharded=True)
    train_in_group(config, 2, functools.partial(leave_after_half, 5))
    alone = dataclasses.replace(config, workers="0", sharded=False)
    assert losses(train_alone(alone)) == pytest.approx(expected, rel=1e-5)


def test_a_frozen_trunk_draws_and_learns_nothing(weights: Path) -> None:
    config = frozen(classification("", Path()), weights)
    task = make_task(config, "ab")
    network = task.build().train()
    for trunk in (module for module in network.modules() if isinstance(module, Trunk)):
        assert not any(module.training for module in trunk.modules())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(*(network.classifier.forward_features(images) for _ in range(2)))
    optimizer = make_optimizer(
        network, task.layer_ids(network), task.no_weight_decay(network), OptimConfig()
    )
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    classifier = network.classifier
    assert trained == {*classifier.norm.parameters(), *classifier.head.parameters()}


def test_the_trunk_costs_its_forward_pass_alone(weights: Path) -> None:
    config = classification("", Path())
    whole = make_task(config, "ab")
    part = make_task(frozen(config, weights), "ab")
    [adds] = whole.multiply_adds(whole.build()).values()
    parts = part.multiply_adds(part.build())
    assert sum(parts.values()) == adds
    assert training_flops(parts) == 6 * adds - 4 * parts[FROZEN_TRUNK]


def test_what_cannot_be_frozen_is_refused(prepared: str, weights: Path, tmp_path: Path) -> None:
    config = classification(prepared, tmp_path)
    random = dataclasses.replace(config, model=ModelConfig(freeze_trunk=True))
    with pytest.raises(ConfigError, match=r"model\.freeze_trunk.*random weights.*--model\.init"):
        check_fit(random, *open_splits(random))
    with pytest.raises(ConfigError, match=r"model\.freeze_trunk.*is for fine-tuning"):
        frozen(tiny(prepared, tmp_path), weights)
    with pytest.raises(ConfigError, match=r"model\.partial_init.*would freeze"):
        ModelConfig(freeze_trunk=True, partial_init=True, init="w")
