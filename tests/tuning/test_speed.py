"""Networks of a space are timed as their task times them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.models.weights import export
from itpn_ray.recipes import detect, segment, tune
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.rotated_detection.config import RotatedDetection
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.tuning.speed import key_of, networks, time_networks
from itpn_ray.tuning.sweep import _preflight as preflight_sweep


def test_each_network_has_a_throughput_and_a_latency(prepared: str) -> None:
    space = ("model.migration choice 0 0.3", "model.image_size choice 32 48")
    sweep = dataclasses.replace(tune.nano(), data=prepared, space=space)
    found = time_networks(networks(sweep), batch=2, gpu=False)
    assert len(found) == 4
    for one in found.values():
        assert one.throughput.low <= one.throughput.images_per_s <= one.throughput.high
        assert one.latency_ms > 0


def test_detectors_are_timed_too(scenes: str) -> None:
    config = dataclasses.replace(detect.RECIPES["nano"](), data=scenes)
    small = dataclasses.replace(
        config, task=dataclasses.replace(config.task, short_side=64, long_side=64)
    )
    found = time_networks([small], batch=2, gpu=False)
    assert found.keys() == {key_of(small)}


@pytest.mark.programs
def test_compiled_networks_are_timed(
    prepared: str, scenes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_with = nn.Module.compile
    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    def compile_quickly(module: nn.Module, **options: Any) -> None:
        compile_with(module, backend=backend, **options)

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    sweep = tune.nano()
    classifier = dataclasses.replace(networks(sweep)[0], data=prepared)
    detector = dataclasses.replace(
        detect.RECIPES["nano"](),
        data=scenes,
        task=Detection(small_head=True, short_side=64, long_side=64),
    )
    for config in (classifier, detector):
        graphs.clear()
        torch._dynamo.reset()
        found = time_networks([config], batch=2, gpu=False, target="compiled")
        assert all(one.throughput.images_per_s > 0 for one in found.values())
        assert len(graphs) == 2  # batches and single images


@pytest.mark.programs
def test_an_onnx_graph_is_timed_where_the_whole_network_is_one(prepared: str, scenes: str) -> None:
    space = ("model.migration choice 0 0.3", "model.image_size choice 32")
    sweep = dataclasses.replace(tune.nano(), data=prepared, space=space, target="onnx")
    found = time_networks(networks(sweep), batch=2, gpu=False, target=sweep.target)
    assert len(found) == 2
    assert all(one.throughput.images_per_s > 0 < one.latency_ms for one in found.values())
    config = dataclasses.replace(detect.RECIPES["nano"](), data=scenes)
    with pytest.raises(ConfigError, match="would time only trunk and pyramid"):
        time_networks([config], batch=1, gpu=False, target="onnx")


def test_onnx_is_refused_at_once_without_its_libraries(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_ONNX_LIBRARIES", ("onnx", "no_such_library"))
    sweep = dataclasses.replace(tune.nano(), data=prepared, out=str(tmp_path), target="onnx")
    with pytest.raises(ConfigError, match="target = 'onnx': ONNX needs no_such_library"):
        preflight_sweep(sweep)


def test_keys_tell_networks_apart_by_what_changes_their_speed() -> None:
    plain = ExperimentConfig(task=Classification())

    def key(**changes: Any) -> str:
        return key_of(dataclasses.replace(plain, model=dataclasses.replace(plain.model, **changes)))

    assert key(drop_path=0.3) == key()
    windows = {"window": 16, "gathering": True}
    different = [
        key(),
        key(migration=0.3),
        key(convolution=True),
        key(window=16),
        key(**windows),
        key(**windows, window_position="windows"),
    ]
    assert len(set(different)) == len(different)


def test_every_field_of_a_task_is_known_to_be_timed_or_not() -> None:
    """Those that no speed depends on are named here, so that a new one is thought of."""
    pyramid = {"ema_decay", "init_pyramid"}
    untimed = {
        Classification: {"mixup", "cutmix", "label_smoothing", "class_weights", "random_erasing"}
        | {"init_head", "ema_decay"},
        Detection: pyramid | {"pad_to"},
        RotatedDetection: pyramid,
        Segmentation: pyramid,
    }
    for settings, rest in untimed.items():
        fields = {field.name for field in dataclasses.fields(settings)}
        assert fields == rest | set(settings.speed_fields)
        assert set(settings.view_fields) <= set(settings.speed_fields)


def test_a_space_of_heads_and_sizes_has_a_network_for_each() -> None:
    space = ("task.head choice upernet mlp", "task.short_side choice 64 96")
    finetune = segment.RECIPES["nano"]()
    found = networks(dataclasses.replace(tune.nano(), space=space, finetune=finetune))
    assert len({key_of(one) for one in found}) == 4
    assert {(one.task.head, one.task.short_side) for one in found} == {
        (head, side) for head in ("upernet", "mlp") for side in (64, 96)
    }
