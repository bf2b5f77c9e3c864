from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from itpn_ray.errors import ConfigError
from itpn_ray.models import (
    Dino,
    create_autoencoder,
    layer_ids,
    load_model,
    load_weights,
    no_weight_decay,
    save_model,
)
from itpn_ray.models.detection.base import Detections, Targets
from tests.models.detection.dinos import dino
from tests.models.detection.made import Shape, alike, alone, images, sizes, targets
from tests.models.learning import train_until
from tests.models.nets import make_images as noise

ONE: list[Shape] = [(0, (6, 10, 40, 44))]
TWO: list[Shape] = [(1, (4, 4, 30, 34)), (0, (34, 20, 60, 58))]
NONE: list[Shape] = []
TERMS = {
    f"{part}{name}" for part in ("", "denoising_", "encoder_") for name in ("class", "l1", "giou")
}


def parts(
    net: Dino, source_images: list[list[Shape]], count: float | None = None
) -> dict[str, Tensor]:
    """The losses; with `count`, that is what a worker has on average."""
    mean = alone if count is None else lambda x: torch.full_like(x, count)
    made = targets(source_images, [100 + len(shapes) for shapes in source_images])
    return net.losses(images(source_images), sizes(len(source_images)), made, mean)


def total(net: Dino, images: list[list[Shape]], count: float | None = None) -> Tensor:
    return torch.stack(list(parts(net, images, count).values())).sum()


def gradients(net: Dino, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def test_losses_and_detections_have_their_shapes():
    net = dino(stirred=True)
    losses = parts(net, [TWO, NONE, ONE])
    assert set(losses) == TERMS
    assert all(value.shape == () and value > 0 for value in losses.values())
    assert all(value.dtype == torch.float32 for value in losses.values())
    valid = torch.tensor([[64, 64], [40, 64], [33, 20]])
    found = net.eval().detect(noise(3, 64), valid)
    for detections, (height, width) in zip(found, valid.tolist(), strict=True):
        n = len(detections.scores)
        assert n == 60  # 20 queries, 3 classes
        assert detections.boxes.shape == (n, 4)
        assert detections.masks is None
        assert (detections.scores.diff() <= 0).all()
        assert detections.scores.min() >= 0
        assert set(detections.labels.tolist()) <= {0, 1, 2}
        x1, y1, x2, y2 = detections.boxes.unbind(1)
        assert torch.stack([x1, y1, x2 - x1, y2 - y1, width - x2, height - y2]).min() >= 0


def test_at_most_a_hundred_detections():
    net = dino(queries=60).eval()
    assert len(net.detect(noise(1, 64), sizes(1))[0].scores) == 100


def test_detections_are_the_last_layers():
    net = dino(stirred=True).eval()
    valid = torch.tensor([[64, 48]])
    with torch.no_grad():
        tokens, levels = net.encode(noise(1, 64), valid)
        made = net.decode(tokens, levels, net.select(tokens, levels))
    found = net.detect(noise(1, 64), valid)[0]
    scores = made.logits[-1, 0].sigmoid()
    query, label = divmod(int(scores.argmax()), 3)
    assert found.labels[0] == label
    torch.testing.assert_close(found.scores[0], scores.max())
    x, y, w, h = made.boxes[-1, 0, query].tolist()
    wanted = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2]).clamp(0, 1)
    torch.testing.assert_close(found.boxes[0], wanted * torch.tensor([48.0, 64, 48, 64]))


@pytest.mark.rounding
def test_an_image_does_not_depend_on_its_batch_mates():
    # At full width, where groups of channels are large enough to be normalised to the last digit.
    net = dino(stirred=True, drop_path=0.3, channels=256).train()
    batch = [ONE, TWO, NONE, [*TWO, *ONE]]
    whole, made = images(batch), targets(batch)

    def losses(first: int, last: int) -> dict[str, Tensor]:
        own, most = slice(first, last), max(1, *map(len, batch[first:last]))
        share = Targets(
            boxes=made.boxes[own, :most],
            labels=made.labels[own, :most],
            masks=None,
            seeds=made.seeds[own],
        )
        return net.losses(whole[own], sizes(last - first), share, torch.ones_like)

    apart = [losses(i, i + 1) for i in range(4)]
    for name, value in losses(0, 4).items():
        torch.testing.assert_close(value, sum(one[name] for one in apart), rtol=1e-5, atol=1e-5)
    net.eval()
    valid = torch.tensor([[64, 64], [50, 40]])
    pair = net.detect(whole[:2], valid)
    for i in range(2):
        (single,) = net.detect(whole[i : i + 1], valid[i : i + 1])
        assert alike(pair[i], single)
    assert not alike(pair[0], pair[1])


def test_all_chance_comes_from_the_seeds():
    net = dino(stirred=True, drop_path=0.5).train()
    torch.manual_seed(1)
    first = total(net, [TWO, ONE])
    torch.manual_seed(2)
    assert total(net, [TWO, ONE]).equal(first)
    made = targets([TWO, ONE], [7, 8])
    other = net.losses(images([TWO, ONE]), sizes(2), made, alone)
    assert not torch.stack(list(other.values())).sum().isclose(first)


@pytest.mark.parametrize("second", [NONE, ONE])
def test_boxes_are_normalised_over_workers(second):
    """Two workers with an image each, one perhaps empty, learn what one worker with both does."""
    net = dino(stirred=True)
    first = [*TWO, *ONE]
    counts: list[float] = []

    def mean(x: Tensor) -> Tensor:
        counts.append(x.item())
        return torch.full_like(x, (3 + len(second)) / 2)

    whole = images([first, second])
    made = targets([first, second], [1, 2])
    one = net.losses(whole, sizes(2), made, alone)
    expected = gradients(net, torch.stack(list(one.values())).sum())
    averaged: dict[str, Tensor] = {}
    for rank in range(2):
        own = slice(rank, rank + 1)
        share = Targets(
            boxes=made.boxes[own], labels=made.labels[own], masks=None, seeds=made.seeds[own]
        )
        losses = net.losses(whole[own], sizes(1), share, mean)
        for name, grad in gradients(net, torch.stack(list(losses.values())).sum()).items():
            averaged[name] = averaged.get(name, 0) + grad / 2
    assert counts == [3.0, float(len(second))]  # each worker takes part once
    assert averaged.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(averaged[name], grad, rtol=1e-3, atol=1e-4, msg=name)


def test_without_any_object_on_any_worker():
    net = dino(stirred=True)
    losses = parts(net, [NONE, NONE])
    assert set(losses) == TERMS
    for name, value in losses.items():
        assert value.isfinite()
        assert (value > 0) == (name in ("class", "encoder_class"))
    grads = gradients(net, torch.stack(list(losses.values())).sum())
    # Each parameter takes part on each worker, or gradients could not be averaged.
    assert grads.keys() == dict(net.named_parameters()).keys()
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("levels", [4, 5])
def test_every_parameter_learns(levels):
    net = dino(stirred=True, levels=levels)
    assert net.trunk.strides == (4, 8, 16, 32, 64)[-levels:]
    grads = gradients(net, total(net, [TWO, ONE]))
    assert grads.keys() == dict(net.named_parameters()).keys()
    still = {name for name, grad in grads.items() if grad.abs().max() == 0}
    # Keys have a bias that softmax takes no notice of; all else must move.
    assert {name for name in still if not name.endswith("k_proj.bias")} == set()


def test_a_diverged_network_tells_by_its_loss():
    net = dino()
    with torch.no_grad():
        net.encoder.layers[0].mlp.fc1.weight.fill_(torch.nan)
    assert total(net, [ONE]).isnan()


def test_checkpointing_changes_nothing():
    net = dino(stirred=True).train()
    expected = gradients(net, total(net, [TWO]))
    net.set_grad_checkpointing(True)
    assert all(layer.gradient_checkpointing for layer in net.encoder.layers)
    for name, grad in gradients(net, total(net, [TWO])).items():
        torch.testing.assert_close(grad, expected[name])
    net.set_grad_checkpointing(False)
    assert not any(layer.gradient_checkpointing for layer in net.encoder.layers)


def test_half_precision():
    net = dino(stirred=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(net, [TWO])
        found = net.eval().detect(noise(1, 64), sizes(1))[0]
    torch.testing.assert_close(loss, total(net.train(), [TWO]), rtol=0.1, atol=0.0)
    assert found.boxes.dtype == found.scores.dtype == torch.float32


def test_migration_and_windows_are_options():
    plain = dino(stirred=True).eval()
    before = plain.detect(noise(1, 64), sizes(1))[0].boxes
    plain.set_migration(0.5)
    assert plain.config.trunk.acceleration.ratio == 0.5
    after = plain.detect(noise(1, 64), sizes(1))[0].boxes
    assert before.shape == after.shape
    assert not before.allclose(after)
    made = dino(stirred=True, migration=0.5).eval()
    torch.testing.assert_close(made.detect(noise(1, 64), sizes(1))[0].boxes, after)
    made.set_gathering(window=2)
    made.detect(noise(1, 64), sizes(1))


@pytest.mark.rounding
def test_it_learns():
    """A small detector finds the shapes of two images, from nothing."""
    net = dino(channels=64, encoder_layers=1, decoder_layers=2, levels=4).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    batch = [TWO, ONE]
    given = images(batch)

    def losses(step: int) -> dict[str, Tensor]:
        made = targets(batch, [2 * step, 2 * step + 1])
        return net.losses(given, sizes(2), made, alone)

    def step(number: int) -> None:
        optimizer.zero_grad()
        torch.stack(list(losses(number).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    def finds(found: Detections, shapes: list[Shape]) -> bool:
        best = found.boxes[: len(shapes)], found.labels[: len(shapes)]
        near = box_iou(torch.tensor([box for _, box in shapes]).float(), best[0])
        labels = torch.tensor([label for label, _ in shapes])
        return bool((near.amax(1) > 0.5).all() and best[1][near.argmax(1)].equal(labels))

    first = {name: loss.item() for name, loss in losses(0).items()}

    @torch.no_grad()
    def learned() -> bool:
        found = net.eval().detect(given, sizes(2))
        net.train()
        last = losses(0)
        return (
            sum(last.values()) < 0.35 * sum(first.values())
            and all(last[name] < first[name] for name in TERMS)
            and all(map(finds, found, batch))
        )

    train_until(learned, step, most=400)


def test_saving_and_loading(tmp_path):
    net = dino(stirred=True, levels=4, migration=0.25, queries=17).eval()
    save_model(net, tmp_path / "model.safetensors", {"classes": "[]"})
    loaded = load_model(tmp_path / "model.safetensors")
    assert isinstance(loaded, Dino)
    assert loaded.config == net.config
    images, valid = noise(1, 64), sizes(1)
    torch.testing.assert_close(
        loaded.detect(images, valid)[0].boxes, net.detect(images, valid)[0].boxes
    )


@pytest.mark.parametrize("pyramid", [True, False])
def test_trunk_and_pyramid_come_from_pre_training(pyramid):
    pretrained = create_autoencoder(
        "nano", image_size=64, depths=(1, 1, 2), pyramid_width=32, pyramid_depth=1
    )
    net = dino()
    report = load_weights(net, pretrained.state_dict(), pyramid=pyramid)
    own = {name for name in net.state_dict() if name.startswith("trunk.")}
    wanted = own if pyramid else {name for name in own if name.startswith("trunk.trunk.")}
    assert set(report.loaded) == wanted
    held = net.state_dict()
    assert held["trunk.trunk.embed.weight"].equal(pretrained.state_dict()["trunk.embed.weight"])


def test_all_but_the_classes_goes_to_another_data_set():
    """Objects365, then COCO: what depends on the classes is made anew."""
    source, net = dino(stirred=True, num_classes=5), dino(num_classes=4)
    report = load_weights(net, source.state_dict())
    anew = {"class_contents.weight"} | {
        f"{part}.class_head.{name}" for part in ("select", "decoder") for name in ("weight", "bias")
    }
    assert set(report.missing) == set(report.mismatched) == anew
    assert set(report.loaded) == set(net.state_dict()) - anew


def test_layer_ids():
    net = dino()
    ids = layer_ids(net)
    assert ids.keys() == dict(net.named_parameters()).keys()
    assert ids["trunk.trunk.embed.weight"] == 0
    assert ids["trunk.trunk.stage3.1.norm1.weight"] == 2
    head = {depth for name, depth in ids.items() if not name.startswith("trunk.trunk.")}
    assert head == {max(ids.values())} == {sum((1, 1, 2)) + 1}
    undecayed = no_weight_decay(net)
    assert "trunk.trunk.position" in undecayed
    assert "decoder.position.0.weight" not in undecayed


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_classes": 0},
        {"levels": 3},
        {"channels": 96, "attention_heads": 5},
        {"channels": 32},
        {"decoder_layers": 0},
        {"queries": 0},
        {"denoising": 0},
        {"label_noise": -0.1},
        {"box_noise": 1.5},
        {"no_such_field": 1},
    ],
)
def test_wrong_choices_are_refused(wrong):
    with pytest.raises(ConfigError):
        dino(**wrong)
