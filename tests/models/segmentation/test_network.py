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
from itpn_ray.models.segmentation.sliding import Viewing, look, pixel_classes, slide, starts

CLASSES = 5
SMALL = {
    "upernet": {"width": 16, "aux_width": 16},
    "mlp": {"width": 16, "aux_width": 16},
    "mask_dino": {
        "channels": 64,
        "attention_heads": 2,
        "mlp_width": 64,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "queries": 12,
        "denoising": 8,
        "points": 256,
    },
    "eomt": {"width": 32, "attention_heads": 4, "blocks": 2, "queries": 12, "points": 256},
}
HEADS = pytest.mark.parametrize("head", SMALL)


def segmenter(head: str = "upernet") -> Segmenter:
    torch.manual_seed(0)
    return create_segmenter("nano", num_classes=CLASSES, head=head, image_size=64, **SMALL[head])


def alone(value: Tensor) -> Tensor:
    """The mean over one worker."""
    return value


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 64, 64, generator=generator)
    masks = torch.randint(-1, CLASSES, (3, 64, 64), generator=generator)
    return images, masks.to(torch.int16), torch.tensor([7, 1, 4])


@HEADS
def test_every_part_learns(head: str) -> None:
    network = segmenter(head).train()
    torch.stack(list(network.losses(*batch(), alone).values())).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@HEADS
def test_nothing_labelled_is_no_loss(head: str) -> None:
    network = segmenter(head).train()
    images, masks, seeds = batch()
    losses = network.losses(images, torch.full_like(masks, -1), seeds, alone)
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss == 0 for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_loss_is_a_mean_over_images() -> None:
    """Whatever is ignored, so that parts of a batch and shares of workers add up exactly."""
    network = segmenter().eval()
    images, masks, seeds = batch()
    masks[0, :50] = -1
    network.config = dataclasses.replace(network.config, dropout=0.0)
    whole = network.losses(images, masks, seeds, alone)
    parts = [
        network.losses(*(x[i : i + 1] for x in (images, masks, seeds)), alone) for i in range(3)
    ]
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


def test_sizes_and_mirrorings_are_averaged() -> None:
    """A network that says its pixels' values gives a flat image back, however it is seen."""
    flat = torch.full((1, 3, 70, 101), 0.25)
    many = Viewing(window=32, stride=20, scales=(0.5, 1.0, 1.5), mirror=True)
    torch.testing.assert_close(look(lambda x: 2 * x, flat, 3, many, lambda x: x), 2 * flat[0])
    image = torch.rand(1, 3, 64, 64)
    there_and_back = Viewing(window=0, mirror=True)
    torch.testing.assert_close(look(lambda x: x, image, 3, there_and_back, lambda x: x), image[0])
    with pytest.raises(ConfigError, match="scales"):
        Viewing(scales=())


def test_likelihoods_of_logits_are_averaged() -> None:
    network = segmenter().eval()
    network.viewing = Viewing(window=0, scales=(1.0, 1.5))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = look(network, image, CLASSES, network.viewing, network.likelihood)
    torch.testing.assert_close(found.sum(0), torch.ones(64, 64))


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


@HEADS
def test_a_file_brings_the_segmenter_back(head: str, tmp_path: Path) -> None:
    network = segmenter(head).eval()
    viewing = {"short_side": 64, "long_side": 128, "window": 64, "stride": 43, "scales": [1.0]}
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


@HEADS
def test_pretrained_trunk_and_pyramid_fit(head: str) -> None:
    earlier = create_autoencoder("nano", image_size=64)
    report = load_weights(segmenter(head), earlier.state_dict())
    assert report.fraction == 1.0
    assert not any(name.startswith("trunk.") for name in report.missing)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'upernet'"):
        create_segmenter("nano", num_classes=CLASSES, head="upernett")
