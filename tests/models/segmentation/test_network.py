"""Segmenters: losses, windows, memory-bound resizing, and their weight files."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.models import (
    Segmenter,
    create_autoencoder,
    create_segmenter,
    load_model,
    load_weights,
    save_model,
)
from itpn_ray.models.segmentation import sliding
from itpn_ray.models.segmentation.sliding import Viewing, pixel_classes, slide, starts

CLASSES = 5
HEADS = pytest.mark.parametrize("head", ["upernet", "mlp"])


def segmenter(head: str = "upernet") -> Segmenter:
    torch.manual_seed(0)
    return create_segmenter(
        "nano", num_classes=CLASSES, head=head, image_size=64, width=16, aux_width=16
    )


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 64, 64, generator=generator)
    masks = torch.randint(-1, CLASSES, (3, 64, 64), generator=generator)
    return images, masks.to(torch.int16), torch.tensor([7, 1, 4])


@HEADS
def test_every_part_learns(head: str) -> None:
    network = segmenter(head).train()
    torch.stack(list(network.losses(*batch()).values())).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_nothing_labelled_is_no_loss() -> None:
    network = segmenter().train()
    images, masks, seeds = batch()
    losses = network.losses(images, torch.full_like(masks, -1), seeds)
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss == 0 for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_loss_is_a_mean_over_images() -> None:
    """Whatever is ignored, so that parts of a batch and shares of workers add up exactly."""
    network = segmenter().eval()
    images, masks, seeds = batch()
    masks[0, :50] = -1
    network.config = dataclasses.replace(network.config, dropout=0.0)
    whole = network.losses(images, masks, seeds)
    parts = [network.losses(*(x[i : i + 1] for x in (images, masks, seeds))) for i in range(3)]
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in parts]).mean())
    logits = network(images).detach()
    logits = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
    wanted = F.cross_entropy(logits, masks.long(), ignore_index=-1, reduction="none").mean()
    torch.testing.assert_close(whole["pixels"].detach(), wanted)


def test_windows_cover_every_length() -> None:
    for length in (1, 100, 512, 513, 683, 853, 854, 2048):
        found = starts(length, 512, 341)
        assert found[0] == 0
        assert found[-1] == max(0, length - 512)
        assert all(b - a <= 341 for a, b in pairwise(found))
    assert starts(853, 512, 341) == [0, 341]
    assert starts(854, 512, 341) == [0, 341, 342]


def test_windows_are_averaged() -> None:
    """A network that says its pixels' values gives them back, whatever the windows."""
    image = torch.rand(1, 3, 70, 101)
    for viewing in (Viewing(window=32, stride=20), Viewing(window=0), Viewing(window=512)):
        found = slide(lambda x: 2 * x, image, 3, viewing)
        torch.testing.assert_close(found, 2 * image[0])


def test_whole_and_one_window_agree() -> None:
    network = segmenter().eval()
    image = torch.randn(1, 3, 64, 64)
    one = slide(network, image, CLASSES, Viewing(window=64, stride=43))
    torch.testing.assert_close(
        one, slide(network, image, CLASSES, Viewing(window=0)), rtol=0, atol=0
    )
    with pytest.raises(ConfigError, match="stride = 65"):
        Viewing(window=64, stride=65)


@pytest.mark.parametrize("size", [(53, 40), (9, 200), (1, 1)])
def test_bands_of_rows_are_the_whole(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(4, 17, 23)
    wanted = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(pixel_classes(logits, *size), wanted)
    monkeypatch.setattr(sliding, "BAND", 4 * size[1] * 3)  # three rows at a time
    assert torch.equal(pixel_classes(logits, *size), wanted)


def test_a_file_brings_the_segmenter_back(tmp_path: Path) -> None:
    network = segmenter().eval()
    viewing = {"short_side": 64, "long_side": 128, "window": 64, "stride": 43}
    save_model(network, tmp_path / "m.safetensors", {"viewing": json.dumps(viewing)})
    again = load_model(tmp_path / "m.safetensors")
    assert isinstance(again, Segmenter)
    network.viewing = again.viewing
    assert again.viewing == Viewing(**viewing)
    images, sizes = again.preprocess(torch.randint(256, (3, 50, 90), dtype=torch.uint8))
    assert sizes.tolist() == [[64, 115]]
    (mask,) = again.segment(images, sizes, [(50, 90)])
    assert mask.shape == (50, 90)
    assert torch.equal(mask, network.segment(images, sizes, [(50, 90)])[0])


def test_pretrained_trunk_and_pyramid_fit() -> None:
    earlier = create_autoencoder("nano", image_size=64)
    network = segmenter()
    report = load_weights(network, earlier.state_dict())
    assert report.fraction == 1.0
    assert all(name.startswith(("head.", "aux", "logits.")) for name in report.missing)
