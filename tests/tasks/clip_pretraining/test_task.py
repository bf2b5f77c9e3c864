"""CLIP pre-training: its loss, its draws, what it evaluates and exports."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.models import ClipDistiller, create_model, load_model, load_weights
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.clip_pretraining.task import (
    ClipPretrainingTask,
    DistillationNetwork,
    cosine_loss,
)
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from tests.models.learning import train_until
from tests.pretrain.clip_net import make_clip

MODEL = ModelConfig(name="fast_itpn_nano", image_size=64, drop_path=0.3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "clip.pt"
    torch.save(make_clip().state_dict(), path)
    return str(path)


def make_task(teacher: str = "", **changes: object) -> ClipPretrainingTask:
    settings = {"teacher_model": "clip_nano", "pyramid_width": 32, "teacher": teacher, **changes}
    config = ClipPretraining(**settings)  # type: ignore[arg-type]
    return ClipPretrainingTask(TaskSetup(config=config, model=MODEL, seed=3))


def make_images(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(2)
    return {
        "image": torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator),
        "label": torch.arange(count) % 2,
        "sample_id": torch.arange(count),
    }


@pytest.mark.parametrize("loss", ["smooth_l1", "cosine"])
def test_loss_is_the_distance_of_both_outputs_to_all_tokens(teacher: str, loss: str) -> None:
    task = make_task(teacher, loss=loss)
    network = cast(DistillationNetwork, task.build().train())
    batch = task.prepare(make_images(), epoch=1)
    terms = network(batch)
    output = network.distiller(batch["image"], batch["mask"], drop_noise=batch["drop_noise"])
    target = batch["teacher"].float()
    assert target.shape == (6, 16, 32)

    def distance(tokens: Tensor) -> Tensor:
        if loss == "smooth_l1":
            gap = (tokens - target).abs()
            return torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
        units = (F.normalize(t, dim=-1) for t in (tokens, target))
        return 1 - torch.stack(list(units)).prod(0).sum(-1).mean()

    torch.testing.assert_close(terms["mfm"], distance(output["main"]))
    torch.testing.assert_close(terms["aux"], distance(output["aux"]))
    torch.testing.assert_close(terms["loss"], terms["mfm"] + terms["aux"])


def test_cosine_loss_is_zero_for_the_same_direction() -> None:
    tokens = torch.randn(2, 5, 8)
    assert cosine_loss(3 * tokens, tokens).item() == pytest.approx(0, abs=1e-5)
    assert cosine_loss(-tokens, tokens).item() == pytest.approx(2, abs=1e-5)


def test_every_parameter_learns(teacher: str) -> None:
    task = make_task(teacher)
    network = task.build().train()
    network(task.prepare(make_images(), epoch=0))["loss"].backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert idle == []
    names = {name for name, _ in network.named_parameters()}
    assert set(task.layer_ids(network)) == names
    assert task.no_weight_decay(network) < names
    assert "distiller.mask_token" in task.no_weight_decay(network)
    assert "distiller.to_teacher.weight" not in task.no_weight_decay(network)


def test_features_with_the_batch_replace_the_teacher(teacher: str) -> None:
    """To the last bit: the teacher's tokens are float16 either way."""
    asking, reading = make_task(teacher), make_task()
    network = asking.build().train()
    reading.build()
    asked = asking.prepare(make_images(), epoch=4)
    read = reading.prepare({**make_images(), "teacher": asked["teacher"]}, epoch=4)
    assert asked.keys() == read.keys()
    assert network(asked)["loss"].item() == network(read)["loss"].item()
    with pytest.raises(ConfigError, match=r"task\.teacher"):
        reading.prepare(make_images(), epoch=4)


def test_draws_follow_the_sample(teacher: str) -> None:
    task = make_task(teacher)
    task.build()
    whole = task.prepare(make_images(), epoch=2)
    part = task.prepare({name: value[2:5] for name, value in make_images().items()}, epoch=2)
    for name in ("mask", "drop_noise", "image"):
        assert torch.equal(part[name], whole[name][2:5])
    later = task.prepare(make_images(), epoch=3)
    assert not torch.equal(later["mask"], whole["mask"])
    assert torch.equal(later["teacher"], whole["teacher"])
    assert whole["mask"].sum(1).tolist() == [6] * 6


def test_the_teacher_stays_out_of_the_network(teacher: str) -> None:
    task = make_task(teacher)
    network = task.build()
    before = set(network.state_dict())
    task.prepare(make_images(), epoch=0)
    assert set(network.state_dict()) == before
    assert not any("teacher" in name and "to_teacher" not in name for name in before)


@pytest.mark.rounding
def test_it_learns(teacher: str) -> None:
    task = make_task(teacher)
    network = task.build().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    batch = task.prepare(make_images(), epoch=0)
    losses: list[float] = []

    def step(number: int) -> None:
        loss = network(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    train_until(lambda: losses[-1] < 0.75 * losses[0], step, most=100)


def test_evaluation_and_export(teacher: str, tmp_path: Path) -> None:
    task = make_task(teacher)
    network = task.build().eval()
    halves = [{name: value[i : i + 3] for name, value in make_images().items()} for i in (0, 3)]
    val, probe = task.evaluate(network, halves, lambda tensor: tensor)
    with torch.no_grad():
        whole = network(task.prepare(make_images(), epoch=0))
    assert val.metrics == pytest.approx({k: v.item() for k, v in whole.items()}, rel=1e-4)
    assert 0 <= probe.metrics["knn_top1"] <= 1
    path = tmp_path / "model.safetensors"
    task.export(network, path)
    loaded = load_model(path)
    assert isinstance(loaded, ClipDistiller)
    classifier = create_model("fast_itpn_nano", num_classes=3, image_size=64)
    assert load_weights(classifier, path).fraction == 1.0


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"task\.features"):
        ClipPretraining(teacher="clip.pt", features="features")
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        ClipPretraining(loss="cosin")
    with pytest.raises(ConfigError, match=r"task\.teacher_model"):
        ClipPretraining(teacher_model="resnet50")
    with pytest.raises(ConfigError, match="none of the 16 patches hidden"):
        make_task(mask_ratio=0.01).prepare(make_images() | {"teacher": torch.zeros(1)}, epoch=0)


@pytest.mark.parametrize("task", [PixelPretraining(), ClipPretraining()])
def test_pretraining_keeps_every_token(task: PixelPretraining | ClipPretraining) -> None:
    with pytest.raises(ConfigError, match=r"model\.migration"):
        ExperimentConfig(task=task, model=ModelConfig(migration=0.2))
