"""Options of pre-training that change what is computed: each resumes bit by bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.models import create_autoencoder
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask
from itpn_ray.training.launch.setup import check_fit, open_splits
from itpn_ray.training.optimizer import make_optimizer
from tests.training.runs import final_digest, tiny, train_alone, train_and_stop

GROWING = PixelPretraining(
    mask_ratio=0.5, pyramid_width=16, decoder_width=32, decoder_depth=1,
    start_size=32, growth_epochs=2,
)  # fmt: skip


def with_option(prepared: str, out: Path, option: str) -> ExperimentConfig:
    config = tiny(prepared, out)
    if option == "muon":
        return dataclasses.replace(
            config, optim=dataclasses.replace(config.optim, optimizer="muon")
        )
    return dataclasses.replace(
        config,
        task=GROWING,
        model=dataclasses.replace(config.model, image_size=64),
        optim=dataclasses.replace(config.optim, epochs=3),
    )


@pytest.mark.parametrize("option", ["muon", "growing images"])
def test_a_run_with_the_option_resumes_bit_by_bit(
    option: str, prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = with_option(prepared, tmp_path / "whole", option)
    parts = with_option(prepared, tmp_path / "parts", option)
    records = train_alone(whole)
    train_and_stop(parts, monkeypatch, 5)
    train_alone(parts)
    assert final_digest(parts) == final_digest(whole)
    losses = [record["loss"] for record in records if record["split"] == "train"]
    assert losses[-1] < losses[0]


def test_images_grow_by_patches_to_their_full_size(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    prepare = PixelPretrainingTask.prepare

    def watched(task: PixelPretrainingTask, batch: Any, epoch: int) -> Any:
        ready = prepare(task, batch, epoch)
        seen.append((ready["image"].shape[-1], ready["mask"].shape[1]))
        return ready

    monkeypatch.setattr(PixelPretrainingTask, "prepare", watched)
    config = with_option(prepared, tmp_path, "growing images")
    train_alone(dataclasses.replace(config, eval_every=-1))
    assert seen == [(32, 4)] * 4 + [(48, 9)] * 4 + [(64, 16)] * 4


@pytest.mark.parametrize(
    ("epoch", "side"), [(0, 96), (1, 112), (2, 128), (3, 160), (4, 176), (5, 192), (6, 224)]
)
def test_a_side_is_a_multiple_of_the_patch(epoch: int, side: int) -> None:
    assert PixelPretraining(start_size=96, growth_epochs=6).side(epoch, 224) == side


@pytest.mark.parametrize(
    ("task", "model", "told"),
    [
        ({"start_size": 40, "growth_epochs": 1}, {}, "task.start_size = 40.*32"),
        ({"start_size": -16, "growth_epochs": 1}, {}, "task.start_size = -16"),
        ({"start_size": 32}, {}, "task.growth_epochs = 0.*[Gg]ive both"),
        ({"growth_epochs": 3}, {}, "task.growth_epochs = 3.*[Gg]ive both"),
        ({"start_size": 224, "growth_epochs": 1}, {}, "task.start_size = 224.*not smaller"),
        ({"start_size": 96, "growth_epochs": 1}, {"compile": True}, "task.start_size.*9 sizes"),
    ],
)
def test_growth_that_makes_no_sense_is_refused(
    task: dict[str, Any], model: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        ExperimentConfig(task=PixelPretraining(**task), model=ModelConfig(**model))


def test_a_start_too_small_for_the_masks_is_refused(prepared: str, tmp_path: Path) -> None:
    task = dataclasses.replace(GROWING, start_size=16)
    config = dataclasses.replace(with_option(prepared, tmp_path, "growing images"), task=task)
    with pytest.raises(ConfigError, match=r"mask_ratio.*none of the 1 patches"):
        check_fit(config, *open_splits(config))


def test_muon_needs_whole_matrices() -> None:
    with pytest.raises(ConfigError, match=r"optim\.optimizer.*muon.*sharded"):
        ExperimentConfig(sharded=True, optim=OptimConfig(optimizer="muon"))
    with pytest.raises(ConfigError, match=r"optim\.optimizer.*adamw"):
        OptimConfig(optimizer="sgd")


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adamw() -> None:
    torch.manual_seed(0)
    config = OptimConfig(optimizer="muon", lr=0.1, weight_decay=0.0)
    network = nn.Linear(8, 8)
    before = [parameter.detach().clone() for parameter in (network.weight, network.bias)]
    optimizer = make_optimizer(network, {"weight": 0, "bias": 0}, {"bias"}, config)
    generator = torch.Generator().manual_seed(1)
    network.weight.grad = torch.linspace(1, 8, 8)[:, None] * torch.randn(8, 8, generator=generator)
    network.bias.grad = torch.randn(8, generator=generator)
    spread = torch.linalg.svdvals(network.weight.grad)
    optimizer.step()
    moved, shifted = (
        parameter.detach() - old
        for parameter, old in zip((network.weight, network.bias), before, strict=True)
    )
    values = torch.linalg.svdvals(moved)
    assert spread.max() / spread.min() > 10
    assert values.max() / values.min() < 2
    torch.testing.assert_close(shifted, -0.1 * network.bias.grad.sign(), rtol=1e-3, atol=0)


def test_masked_patches_save_the_memory_of_activations() -> None:
    """What the backward pass keeps: the micro-batch can be larger by as much."""

    def kept(visible: int) -> int:
        torch.manual_seed(0)
        network = create_autoencoder("nano", image_size=128, decoder_width=32, decoder_depth=1)
        storages: dict[int, int] = {}
        parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        order = torch.rand(2, 64).argsort(1)[:, :visible].sort(1).values
        mask = torch.ones(2, 64, dtype=torch.bool).scatter(1, order, False)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = network(torch.randn(2, 3, 128, 128), mask, visible=order)
        output["loss"].backward()
        return sum(storages.values())

    assert kept(16) < 0.4 * kept(63)
