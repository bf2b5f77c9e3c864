"""Elastic r: drawn by step, evaluated at every ratio, and gone on with bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.metrics import find
from itpn_ray.models.networks.build import create_model
from itpn_ray.recipes import detect, segment
from itpn_ray.runs.journal import read_lines
from itpn_ray.tasks.base import AnyTask, Task
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.classification.task import ClassificationTask
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.elastic import check_ratios, fixed_at, mean_cost, ratio_of_step
from itpn_ray.tasks.multilabel.config import MultiLabel
from itpn_ray.tasks.registry import BUILT_IN, settings_class
from itpn_ray.tasks.rotated_detection.config import RotatedDetection
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.training.claim import run_folder
from itpn_ray.training.launch.driver import preflight
from itpn_ray.training.launch.setup import make_task
from tests.tasks.rotated_runs import rotated
from tests.training.runs import Stop, classification, final_digest, stop_at, train_alone

RATIOS = (0.0, 0.2, 0.5)


def elastic(prepared: str, out: Path, **changes) -> ExperimentConfig:
    config = classification(prepared, out, **changes)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, elastic_migration=RATIOS)
    )


def test_every_ratio_comes_equally_often_in_an_order_of_the_seed() -> None:
    drawn = [ratio_of_step(RATIOS, 0, step) for step in range(30)]
    assert all(sorted(drawn[i : i + 3]) == list(RATIOS) for i in range(0, 30, 3))
    assert drawn != [ratio_of_step(RATIOS, 1, step) for step in range(30)]
    assert len({tuple(drawn[i : i + 3]) for i in range(0, 30, 3)}) > 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"elastic_migration": (0.0, 0.95)}, "must lie in"),
        ({"elastic_migration": (0.1, 0.2)}, "does not rise from 0"),
        ({"elastic_migration": (0.0, 0.2, 0.2)}, "does not rise from 0"),
        ({"elastic_migration": (0.0, 0.2), "migration": 0.1}, "is one r"),
        (
            {"elastic_migration": tuple(n / 10 for n in range(8)), "compile": True},
            "a graph of its own",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ModelConfig(**changes)


def test_pretraining_keeps_every_token() -> None:
    with pytest.raises(ConfigError, match=r"model\.elastic_migration"):
        dataclasses.replace(ExperimentConfig(), model=ModelConfig(elastic_migration=(0.0, 0.2)))


def test_ratios_are_checked_and_costs_averaged_without_a_trace() -> None:
    network = create_model("fast_itpn_nano", num_classes=2, image_size=32)
    before = network.acceleration
    check_ratios(network, (0.0, 0.3))
    costs = iter([30, 20])
    assert mean_cost(network, (0.0, 0.3), lambda: next(costs)) == 25
    assert mean_cost(network, (), lambda: 7) == 7
    assert network.acceleration == before


def test_a_replayed_step_has_the_ratio_of_its_step() -> None:
    model = ModelConfig(elastic_migration=RATIOS)
    assert [fixed_at(model, 5, step).migration for step in range(6)] == [
        ratio_of_step(RATIOS, 5, step) for step in range(6)
    ]
    assert fixed_at(ModelConfig(migration=0.3), 5, 1).migration == 0.3


def test_metrics_at_a_ratio_are_read_as_those_they_are_of() -> None:
    assert (find("top1_r0.2").label, find("top1_r0.2").unit) == ("top-1 at r = 0.2", "%")
    assert not find("top1_r0.2").headline
    assert find("box_AP_r0.4").unit == "%"
    assert find("no_such_r0.2").unit == ""


def ratios_of(task: AnyTask, network: torch.nn.Module) -> list[float]:
    return [each.acceleration.ratio for each in task.migrating(network)]


def test_steps_change_trained_and_evaluated_networks_of_every_task_or_it_refuses(
    prepared: str, tmp_path: Path
) -> None:
    base = elastic(prepared, tmp_path)
    made = {
        Classification.name: base,
        MultiLabel.name: dataclasses.replace(base, task=MultiLabel(ema_decay=0.9)),
        Detection.name: detect.RECIPES["nano"](),
        Segmentation.name: segment.RECIPES["nano"](),
        RotatedDetection.name: rotated("", tmp_path),
    }
    for name in BUILT_IN:
        if name not in made:
            with pytest.raises(ConfigError, match=r"model\.elastic_migration"):
                settings_class(name)().check_model(base.model)
            continue
        config = made[name]
        model = dataclasses.replace(config.model, elastic_migration=RATIOS)
        task = make_task(dataclasses.replace(config, model=model), ["a", "b"])
        network = task.build()
        task.check_elastic(network)
        assert ratios_of(task, network) == [0.0, 0.0]
        step = next(n for n in range(3) if ratio_of_step(RATIOS, config.seed, n) == 0.5)
        task.before_step(network, step)
        assert ratios_of(task, network) == [0.5, 0.5]


def test_elastic_ratios_that_no_network_takes_are_refused_before_training(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = elastic(prepared, tmp_path)
    monkeypatch.setattr(ClassificationTask, "migrating", Task.migrating)
    for start in (preflight, train_alone):
        with pytest.raises(ConfigError, match="have no r that could change"):
            start(config)


def test_elastic_ratios_beyond_the_depth_are_refused_before_training(
    prepared: str, tmp_path: Path
) -> None:
    config = elastic(prepared, tmp_path)
    model = dataclasses.replace(config.model, elastic_migration=(0.0, 0.9))
    with pytest.raises(ConfigError, match="at most half can"):
        preflight(dataclasses.replace(config, model=model))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_run_is_evaluated_at_every_ratio_and_resumes_bit_for_bit(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema_decay: float
) -> None:
    def config(name: str) -> ExperimentConfig:
        one = elastic(prepared, tmp_path / name)
        return dataclasses.replace(one, task=dataclasses.replace(one.task, ema_decay=ema_decay))

    records = train_alone(config("whole"))
    last = [record for record in records if record["split"] == "val"][-1]
    assert {"top1", "top1_r0.2", "top1_r0.5"} <= last.keys()
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Stop):
            train_alone(config("stopped"))
    train_alone(config("stopped"))
    events = read_lines(run_folder(config("stopped")) / "events.jsonl")
    assert any(event["event"] == "resume" for event in events)
    assert final_digest(config("stopped")) == final_digest(config("whole"))
