"""Low-rank updates: the base stays, the export is an ordinary network, a run goes on bit by bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from itpn_ray.commands.plan.run import count
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.models import Classifier, create_model, load_model, save_model
from itpn_ray.models.networks.low_rank import add_low_rank, merged
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.training.launch.process import open_checkpoints
from itpn_ray.training.launch.setup import check_fit, make_task, open_splits
from itpn_ray.training.optimizer import make_optimizer
from tests.models.nets import make_images, stir
from tests.tasks.detection_runs import detection
from tests.training.group import train_in_group
from tests.training.runs import (
    classification,
    final_digest,
    losses,
    tiny,
    train_alone,
    train_and_stop,
)

RANK = 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's, of as many classes as no data has."""
    path = tmp_path_factory.mktemp("weights") / "trunk.safetensors"
    network = create_model("nano", num_classes=3, image_size=32)
    stir(network, seed=7)
    save_model(network, path)
    return path


def low_rank(config: ExperimentConfig, weights: Path) -> ExperimentConfig:
    model = dataclasses.replace(config.model, init=str(weights), lora_rank=RANK)
    return dataclasses.replace(config, model=model)


def ordinary_network() -> Classifier:
    torch.manual_seed(0)
    network = create_model("nano", num_classes=3, image_size=32)
    stir(network)
    return network.eval()


def made(rank: int = RANK) -> Classifier:
    network = ordinary_network()
    add_low_rank(network.trunk, rank, [name for name, _ in network.trunk.named_parameters()])
    return network


@torch.no_grad()
def test_it_begins_as_the_network_was_and_ends_as_an_ordinary_one() -> None:
    plain, network, images = ordinary_network(), made(), make_images(2, 32)
    assert torch.equal(network(images), plain(images))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if name.endswith(".up"):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    ordinary = merged(network)
    assert not torch.equal(network(images), plain(images))
    assert torch.equal(ordinary(images), network(images))
    assert ordinary.state_dict().keys() == plain.state_dict().keys()
    assert type(ordinary.trunk.stage3[0].attention.qkv) is torch.nn.Linear
    assert merged(plain) is plain


def test_matrices_of_attentions_and_mlps_are_updated() -> None:
    network = made(rank=3)
    trunk = network.trunk
    trained = {name for name, p in trunk.named_parameters() if p.requires_grad}
    layers = {name.partition(".parametrizations")[0] for name in trained}
    assert {layer.split(".", 2)[2] for layer in layers if layer.startswith("stage3.")} == {
        *("attention.qkv", "attention.proj", "mlp.w12", "mlp.w3")
    }
    assert {layer.split(".", 2)[2] for layer in layers if layer.startswith("stage1.")} == {
        *("mlp.fc1", "mlp.fc2")
    }
    width = trunk.config.width
    update = trunk.stage3[0].attention.qkv.parametrizations.weight[0]
    assert (update.up.shape, update.down.shape) == ((3 * width, 3), (3, width))
    assert not update.up.any()


def test_only_updates_norm_and_head_are_optimised(weights: Path) -> None:
    task = make_task(low_rank(classification("", Path()), weights), "ab")
    network = task.build()
    layer_ids = task.layer_ids(network)
    optimizer = make_optimizer(network, layer_ids, task.no_weight_decay(network), OptimConfig())
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in trained}
    assert all(
        name.endswith((".up", ".down")) or name.startswith(("classifier.norm", "classifier.head"))
        for name in names
    )
    assert {name for name, p in network.named_parameters() if p.requires_grad} == names
    deep, shallow = (f"classifier.trunk.stage{stage}.0.mlp" for stage in (3, 1))
    up = "parametrizations.weight.0.up"
    assert layer_ids[f"{deep}.w3.{up}"] > layer_ids[f"{shallow}.fc1.{up}"] > 0


def test_what_the_file_has_not_is_trained_in_full(weights: Path) -> None:
    config = low_rank(classification("", Path()), weights)
    model = dataclasses.replace(config.model, window=2, gathering=True)
    network = make_task(dataclasses.replace(config, model=model), "ab").build()
    new = [p for name, p in network.classifier.named_parameters() if "gathering" in name]
    assert new
    assert all(parameter.requires_grad for parameter in new)


def test_the_base_keeps_its_bits_and_the_export_has_what_was_trained(
    prepared: str, weights: Path, tmp_path: Path
) -> None:
    config = low_rank(classification(prepared, tmp_path), weights)
    task = make_task(config, open_splits(config)[0].classes)
    network = task.build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train_alone(config)
    checkpoint = open_checkpoints(config).latest_good()
    assert checkpoint is not None
    after = checkpoint.load("network")["network"]
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.endswith(".up") for name in changed)
    assert any(name.startswith("average.") for name in changed)
    assert not any(name.endswith(".original") for name in changed)
    network.load_state_dict(after)
    task.export(network, tmp_path / "net.safetensors")
    images = make_images(2, 32)
    with torch.no_grad():
        exported = load_model(tmp_path / "net.safetensors")(images)
        assert torch.equal(exported, network.evaluated(images))


def test_a_stopped_run_ends_bit_equal(
    prepared: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = low_rank(classification(prepared, tmp_path / "whole"), weights)
    expected = losses(train_alone(whole))
    assert expected[-1] < expected[0]
    stopped = low_rank(classification(prepared, tmp_path / "stopped"), weights)
    train_and_stop(stopped, monkeypatch, 5)
    assert losses(train_alone(stopped)) == expected
    assert final_digest(stopped) == final_digest(whole)


@pytest.mark.workers
def test_two_sharded_workers_train_as_one(prepared: str, weights: Path, tmp_path: Path) -> None:
    whole = low_rank(classification(prepared, tmp_path / "one"), weights)
    expected = losses(train_alone(whole))
    config = dataclasses.replace(whole, out=str(tmp_path / "two"), workers="2", sharded=True)
    train_in_group(config, 2)
    alone = dataclasses.replace(config, workers="0", sharded=False)
    assert losses(train_alone(alone)) == pytest.approx(expected, rel=1e-5)


def test_plan_counts_what_is_trained(prepared: str, weights: Path, tmp_path: Path) -> None:
    config = low_rank(classification(prepared, tmp_path), weights)
    train, _ = open_splits(config)
    network = make_task(config, train.classes).build()
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    whole = count(classification(prepared, tmp_path), train)
    size = count(config, train)
    assert size.parameters == trained < whole.parameters / 4
    assert size.state_gb < whole.state_gb


def test_what_has_no_updates_is_refused(
    prepared: str, scenes: str, weights: Path, tmp_path: Path
) -> None:
    config = classification(prepared, tmp_path)
    random = dataclasses.replace(config, model=ModelConfig(lora_rank=4))
    with pytest.raises(ConfigError, match=r"model\.lora_rank.*random weights.*--model\.init"):
        check_fit(random, *open_splits(random))
    for other in (tiny(prepared, tmp_path), detection(scenes, tmp_path)):
        with pytest.raises(ConfigError, match=r"model\.lora_rank.*fine-tuning of classifiers"):
            low_rank(other, weights)
    with pytest.raises(ConfigError, match=r"model\.lora_rank.*freeze_trunk does not"):
        ModelConfig(freeze_trunk=True, lora_rank=4, init="w")
    with pytest.raises(ConfigError, match=r"model\.lora_rank = -1"):
        ModelConfig(lora_rank=-1)
