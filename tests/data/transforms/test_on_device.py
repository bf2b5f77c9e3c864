"""On the device: normalising, mixing and erasing by draws, equal however a batch is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from itpn_ray.data.transforms.on_device import erase, mix, normalise, prefetch, to_device

IDS = torch.arange(100, 140)


def images(count: int = 40, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def targets(count: int = 40) -> Tensor:
    return one_hot(torch.arange(count) % 7, 7).float()


def mixed(
    x: Tensor, y: Tensor, ids: Tensor = IDS, mixup: float = 0.8, cutmix: float = 1.0
) -> tuple[Tensor, Tensor]:
    return mix(x, y, ids, seed=1, epoch=2, mixup=mixup, cutmix=cutmix)


def test_normalise_gives_contiguous_imagenet_units() -> None:
    pixels = torch.tensor([0, 124, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 6)
    out = normalise(pixels.contiguous(memory_format=torch.channels_last))
    assert out.is_contiguous()
    assert out.dtype == torch.float32
    expected = [(0 - 0.485) / 0.229, (124 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor(expected))
    assert normalise(pixels, torch.bfloat16).dtype == torch.bfloat16


def test_mixup_weighs_both_partners_and_their_targets_alike() -> None:
    x, y = images(), targets()
    mixed_x, mixed_y = mixed(x, y, cutmix=0.0)
    torch.testing.assert_close(mixed_x[0::2] + mixed_x[1::2], x[0::2] + x[1::2])
    torch.testing.assert_close(mixed_y.sum(1), torch.ones(40))
    weight = mixed_y[0::2].gather(1, y[0::2].argmax(1, keepdim=True))  # (pairs, 1)
    expected = weight[:, :, None, None] * x[0::2] + (1 - weight[:, :, None, None]) * x[1::2]
    torch.testing.assert_close(mixed_x[0::2], expected)
    assert weight.std() > 0.2


def test_cutmix_swaps_one_box_and_the_label_follows_its_area() -> None:
    x = torch.zeros(40, 3, 32, 32)
    x[1::2] = 1.0
    mixed_x, mixed_y = mixed(x, targets(), mixup=0.0)
    foreign = mixed_x[0::2, 0]  # (pairs, H, W) 1 where the partner's pixels are
    assert set(foreign.unique().tolist()) == {0.0, 1.0}
    own = mixed_y[0::2].gather(1, targets()[0::2].argmax(1, keepdim=True))[:, 0]
    torch.testing.assert_close(own, 1 - foreign.mean((1, 2)))
    torch.testing.assert_close(mixed_x[1::2, 0], 1 - foreign)
    for mask in foreign:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()  # one rectangle


def test_both_kinds_share_the_pairs() -> None:
    x = torch.zeros(400, 3, 32, 32)
    x[1::2] = 1.0
    mixed_x, _ = mixed(x, targets(400), torch.arange(400))
    flat = mixed_x[0::2].flatten(1)
    cut = ((flat == 0) | (flat == 1)).all(1)
    assert 70 < cut.sum() < 130


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_the_weights_follow_the_beta_distribution(alpha: float) -> None:
    x = torch.zeros(20_000, 1, 1, 1)
    x[0::2] = 1.0
    weights = mixed(x, targets(20_000), torch.arange(20_000), alpha, 0.0)[0][0::2].flatten()
    drawn = np.sort(np.random.default_rng(0).beta(alpha, alpha, 100_000))
    shares = np.searchsorted(drawn, np.sort(weights.numpy())) / 100_000
    distance = np.abs(shares - np.arange(10_000) / 10_000).max()
    assert distance < 0.02  # Kolmogorov and Smirnov: 0.017 at one in a hundred


def test_mixing_is_the_same_in_micro_batches() -> None:
    x, y = images(), targets()
    whole_x, whole_y = mixed(x, y)
    parts = [mixed(x[s], y[s], IDS[s]) for s in (slice(0, 6), slice(6, 40))]
    assert torch.equal(whole_x, torch.cat([part[0] for part in parts]))
    assert torch.equal(whole_y, torch.cat([part[1] for part in parts]))


def test_an_odd_last_image_and_switched_off_mixing_stay_as_they_are() -> None:
    x, y = images(5), targets(5)
    mixed_x, mixed_y = mixed(x, y, IDS[:5])
    assert torch.equal(mixed_x[4], x[4])
    assert torch.equal(mixed_y[4], y[4])
    assert mixed(x, y, IDS[:5], 0.0, 0.0)[0] is x


def test_erasing_fills_one_rectangle_of_some_images_with_noise() -> None:
    x = torch.full((400, 3, 32, 32), 9.0)
    out = erase(x, torch.arange(400), seed=0, epoch=0, probability=0.25)
    touched = (out != 9.0).any(1)  # (B, H, W)
    erased = touched.any((1, 2))
    assert 70 < erased.sum() < 130
    areas = touched[erased].float().mean((1, 2))
    assert areas.min() > 0.01
    assert areas.max() < 0.36
    for mask in touched[erased][:20]:
        assert mask.sum() == mask.any(1).sum() * mask.any(0).sum()
    noise = out[out != 9.0]
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_erasing_does_not_depend_on_batch_mates_or_the_order_of_draws() -> None:
    x = images()
    whole = erase(x, IDS, seed=0, epoch=3, probability=0.9)
    alone = erase(x[7:8], IDS[7:8], seed=0, epoch=3, probability=0.9)
    assert torch.equal(whole[7:8], alone)
    later = erase(x, IDS, seed=0, epoch=4, probability=0.9)
    assert not torch.equal(whole, later)
    assert erase(x, IDS, seed=0, epoch=3, probability=0.0) is x


@settings(max_examples=40)
@given(
    size=st.integers(1, 20),
    count=st.integers(1, 5),
    alphas=st.tuples(st.sampled_from([0.0, 1e-3, 0.8, 1.0, 100.0]), st.sampled_from([0.0, 1.0])),
    probability=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 1000),
)
def test_erasing_and_mixing_take_any_setting_and_size(
    size: int, count: int, alphas: tuple[float, float], probability: float, seed: int
) -> None:
    ids = torch.arange(count)
    erased = erase(images(count, size), ids, seed=seed, epoch=0, probability=probability)
    x, y = mix(erased, targets(count), ids, seed=seed, epoch=0, mixup=alphas[0], cutmix=alphas[1])
    assert x.shape == (count, 3, size, size)
    assert x.isfinite().all()
    torch.testing.assert_close(y.sum(1), torch.ones(count))


def test_batches_reach_the_device_in_order() -> None:
    batches = [{"image": torch.full((2,), i)} for i in range(3)]
    copied = list(prefetch(iter(batches), torch.device("cpu")))
    assert [int(batch["image"][0]) for batch in copied] == [0, 1, 2]
    assert to_device(batches[0], torch.device("meta"))["image"].device.type == "meta"
