"""Rotated Faster R-CNN: what it learns from, finds, remembers and costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.models import RotatedRcnn, create_rotated_rcnn, layer_ids, load_model, save_model
from itpn_ray.models.detection.base import Targets
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.models.rotated.overlap import overlaps
from itpn_ray.models.rotated.roi_head import MOST, NMS
from tests.models.learning import train_until


def made(**changes: int) -> RotatedRcnn:
    torch.manual_seed(0)
    options = {"num_classes": 3, "image_size": 64, "fc_width": 32, "proposals": 60, "regions": 32}
    return create_rotated_rcnn("nano", **{**options, **changes})  # type: ignore[arg-type]


def targets(objects: int = 2) -> Targets:
    """Two images: the first with two objects, the second with one, or fewer."""
    boxes = torch.tensor(
        [
            [[30.0, 30.0, 24.0, 12.0, 0.3], [60.0, 40.0, 30.0, 12.0, -1.2]],
            [[20.0, 20.0, 18.0, 9.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]],
        ]
    )
    labels = torch.tensor([[0, 2], [1, -1]])
    labels = torch.where(torch.arange(2) < objects, labels, -1)
    return Targets(boxes=boxes, labels=labels, masks=None, seeds=torch.tensor([5, 6]))


IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
SIZES = torch.tensor([[64, 96], [64, 80]])


def same(value: Tensor) -> Tensor:
    return value


@pytest.mark.parametrize("objects", [2, 0])
def test_every_parameter_learns(objects: int) -> None:
    network = made().train()
    losses = network.losses(IMAGES, SIZES, targets(objects), same)
    assert set(losses) == {"rpn_class", "rpn_box", "class", "box"}
    torch.stack(list(losses.values())).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.rounding
def test_it_learns_the_turn_of_a_box() -> None:
    """A few steps on one image bring the box near its object, angle and all."""
    network = made(num_classes=1)
    boxes = torch.tensor([[[48.0, 32.0, 40.0, 14.0, 0.6]]])
    real = Targets(boxes=boxes, labels=torch.tensor([[0]]), masks=None, seeds=torch.tensor([3]))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)

    def step(number: int) -> None:
        optimiser.zero_grad()
        seeded = replace(real, seeds=torch.tensor([number]))
        losses = network.train().losses(IMAGES[:1], SIZES[:1], seeded, same)
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()

    def learned() -> bool:
        (found,) = network.eval().detect(IMAGES[:1], SIZES[:1])
        surest = found.boxes[found.scores > 0.5][:1]
        return bool((overlaps(surest, boxes[0]) > 0.6).any())

    train_until(learned, step, most=300)


def test_detections_are_apart_sure_and_few() -> None:
    network = made().eval()
    torch.nn.init.normal_(network.roi.box.logits.weight, std=0.3)
    found, _ = network.detect(IMAGES, SIZES)
    assert 0 < len(found.scores) <= MOST
    assert (found.scores.diff() <= 0).all()
    iou = overlaps(found.boxes, found.boxes)
    rivals = (found.labels[:, None] == found.labels) & ~torch.eye(len(iou), dtype=torch.bool)
    assert (iou[rivals] <= NMS).all()


def test_an_image_is_seen_alike_alone_and_in_a_batch() -> None:
    network = made().eval()
    torch.nn.init.normal_(network.roi.box.logits.weight, std=0.3)
    both = network.detect(IMAGES, SIZES)
    images = IMAGES.clone()
    images[1, :, :, 80:] = 0
    (alone,) = network.detect(images[1:], SIZES[1:])
    again = network.detect(images, SIZES)[1]
    torch.testing.assert_close(alone.boxes, again.boxes, rtol=1e-4, atol=1e-3)
    assert len(both) == 2


def test_a_file_holds_all_of_it(tmp_path: Path) -> None:
    network = made().eval()
    metadata = {"view": "[512, 512]", "tiles": "[256, 40]", "classes": '["a", "b", "c"]'}
    save_model(network, tmp_path / "model.safetensors", metadata)
    loaded = load_model(tmp_path / "model.safetensors")
    assert isinstance(loaded, RotatedRcnn)
    assert loaded.config == network.config
    assert (loaded.view, loaded.tiles, loaded.classes) == ((512, 512), (256, 40), ("a", "b", "c"))
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_it_costs_more_for_larger_images_and_has_depths() -> None:
    network = made()
    assert multiply_adds(network, 128) > 1.5 * multiply_adds(network, 64) > 1e6
    assert set(layer_ids(network)) == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("name", ["fc_width", "proposals", "regions", "num_classes"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = 0"):
        made(**{name: 0})
