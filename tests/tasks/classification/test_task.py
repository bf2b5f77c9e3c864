"""The classification task: targets, draws by sample, what is evaluated."""

import pytest
import torch

from itpn_ray.data.transforms.on_device import erase, normalise
from itpn_ray.errors import ConfigError
from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.networks.build import create_model
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.classification.task import ClassificationTask
from itpn_ray.tasks.config import ModelConfig

MODEL = ModelConfig(name="fast_itpn_nano", image_size=32, drop_path=0.5)


def task(**settings: float) -> ClassificationTask:
    plain = {"mixup": 0.0, "cutmix": 0.0, "random_erasing": 0.0, "ema_decay": 0.5}
    config = Classification(**{**plain, **settings})
    return ClassificationTask(TaskSetup(config=config, model=MODEL, classes="abcde", seed=3))


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "label": torch.tensor([0, 1, 2, 3]),
        "sample_id": torch.tensor([10, 11, 12, 13]),
    }


def test_smoothed_targets() -> None:
    plain = task(label_smoothing=0.1)
    plain.build()
    target = plain.prepare(batch(), epoch=0)["target"]
    torch.testing.assert_close(target.sum(1), torch.ones(4))
    torch.testing.assert_close(target[0], torch.tensor([0.92, 0.02, 0.02, 0.02, 0.02]))


def test_pairs_mix_with_each_other_only() -> None:
    mixing = task(mixup=0.8, cutmix=1.0, label_smoothing=0.0)
    mixing.build()
    target = mixing.prepare(batch(), epoch=0)["target"]
    assert (target[:2, 2:] == 0).all()
    assert (target[2:, :2] == 0).all()


def test_erased_noise_is_mixed_too() -> None:
    mixing = task(mixup=0.8, random_erasing=0.99)
    mixing.build()
    mixed = mixing.prepare(batch(), epoch=2)["image"]
    ids = batch()["sample_id"]
    erased = erase(normalise(batch()["image"]), ids, seed=3, epoch=2, probability=0.99)
    torch.testing.assert_close(mixed[0::2] + mixed[1::2], erased[0::2] + erased[1::2])
    assert not torch.equal(mixed, erased)


def test_an_image_does_not_depend_on_other_pairs() -> None:
    mixing = task(mixup=0.8, cutmix=1.0, random_erasing=0.99)
    network = mixing.build()
    whole = mixing.prepare(batch(), epoch=1)
    half = mixing.prepare({name: t[2:] for name, t in batch().items()}, epoch=1)
    for name in ("image", "target", "drop_noise"):
        torch.testing.assert_close(whole[name][2:], half[name], rtol=0, atol=0)
    torch.testing.assert_close(
        network.classifier(whole["image"], drop_noise=whole["drop_noise"])[2:],
        network.classifier(half["image"], drop_noise=half["drop_noise"]),
    )


def test_the_average_is_what_is_evaluated() -> None:
    averaging = task()
    network = averaging.build()
    assert network.evaluated is network.average
    with torch.no_grad():
        network.classifier.head.bias.add_(2.0)
    averaging.after_step(network, step=1000)
    torch.testing.assert_close(network.average.head.bias, network.classifier.head.bias - 1.0)
    without = task(ema_decay=0.0).build()
    assert without.evaluated is without.classifier


def test_evaluation_counts_every_image_once() -> None:
    evaluating = task()
    network = evaluating.build().eval()
    (found,) = evaluating.evaluate(network, [batch(), batch()], lambda tensor: tensor)
    table = found.details["per_class"]
    assert sum(row["count"] for row in table) == 8
    assert 0.0 <= found.metrics["top1"] <= 1.0


@torch.no_grad()
def test_a_trained_network_keeps_its_positions_in_windows_or_refuses_others() -> None:
    acceleration = Acceleration(window=2, gathering=True, relative_position="windows+cross")
    network = create_model("nano", num_classes=2, image_size=64, acceleration=acceleration).eval()
    assert network.trunk.gathering is not None
    torch.nn.init.normal_(network.trunk.gathering.window_bias)
    images = torch.randn(1, 3, 64, 64)
    expected = network(images)
    ClassificationTask.accelerate(network, migration=0.0, window=2, gathering=True)
    assert torch.equal(network(images), expected)
    with pytest.raises(ConfigError, match=r"window = 3: .* windows of 2 tokens"):
        ClassificationTask.accelerate(network, migration=0.0, window=3, gathering=True)
    ClassificationTask.accelerate(network, migration=0.0, window=0, gathering=False)
    assert not network.acceleration.window
