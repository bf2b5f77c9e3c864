"""RandAugment and three-augment: every operation as named, all choices from the draws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from itpn_ray.data.config import AugmentConfig
from itpn_ray.data.transforms.augmentation import (
    OPERATIONS,
    color_jitter,
    draws_per_image,
    make_policy,
    policy_draws,
    rand_augment,
    three_augment,
)
from tests.data.made import make_image

IMAGE = torch.from_numpy(np.asarray(make_image(2, 48, 48)).copy()).permute(2, 0, 1)
PIL = Image.fromarray(IMAGE.permute(1, 2, 0).numpy())
NAMES = [
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "saturation",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "shift_x",
    "shift_y",
]
POLICIES = [
    AugmentConfig(policy=policy) for policy in ("rand_augment", "three_augment", "color_jitter")
]
UNIFORM = st.floats(0, 1, exclude_max=True)


@st.composite
def small_images(draw: st.DrawFn) -> Tensor:
    """(3, S, S) uint8 of 1 to 40 pixels a side: of one value, grey, or of any colours."""
    side, kind = draw(st.integers(1, 40)), draw(st.sampled_from(["flat", "grey", "colours"]))
    if kind == "flat":
        return torch.full((3, side, side), draw(st.sampled_from([0, 127, 255])), dtype=torch.uint8)
    seeded = torch.Generator().manual_seed(draw(st.integers(0, 100)))
    channels = 1 if kind == "grey" else 3
    drawn = torch.randint(256, (channels, side, side), dtype=torch.uint8, generator=seeded)
    return drawn.expand(3, side, side).contiguous()


def operate(name: str, strength: float, sign: float) -> Tensor:
    return OPERATIONS[NAMES.index(name)](IMAGE, strength, sign)


def difference(ours: Tensor, theirs: Image.Image) -> float:
    return float(np.abs(ours.permute(1, 2, 0).numpy() - np.asarray(theirs, dtype=float)).max())


@pytest.mark.parametrize(
    ("name", "strength", "sign", "expected"),
    [
        ("autocontrast", 0.9, 1, lambda p: ImageOps.autocontrast(p)),
        ("invert", 0.9, 1, lambda p: ImageOps.invert(p)),
        ("posterize", 0.5, 1, lambda p: ImageOps.posterize(p, 2)),
        ("solarize", 0.75, 1, lambda p: ImageOps.solarize(p, 64)),
        ("saturation", 0.5, -1, lambda p: ImageEnhance.Color(p).enhance(0.55)),
        ("contrast", 0.5, 1, lambda p: ImageEnhance.Contrast(p).enhance(1.45)),
        ("brightness", 1.0, -1, lambda p: ImageEnhance.Brightness(p).enhance(0.1)),
        ("sharpness", 1.0, 1, lambda p: ImageEnhance.Sharpness(p).enhance(1.9)),
    ],
)
def test_colours_change_as_in_pil(name: str, strength: float, sign: int, expected) -> None:
    assert difference(operate(name, strength, sign), expected(PIL)) <= 3  # PIL rounds each step


def test_dark_pixels_are_brightened() -> None:
    out = operate("solarize_add", 0.5, 1).int()
    dark = IMAGE < 128
    assert torch.equal(out[dark], IMAGE[dark].int() + 55)
    assert torch.equal(out[~dark], IMAGE[~dark].int())


@pytest.mark.parametrize("sign", [1, -1])
def test_geometry_moves_the_image_by_the_strength(sign: int) -> None:
    shifted = operate("shift_x", 0.5, sign)  # 0.225 of 48 is 10.8 pixels
    middle = shifted[:, :, 16:32].float()
    at = 16 - round(10.8 * sign)
    near = IMAGE[:, :, at : at + 16].float()
    assert (middle - near).abs().mean() < (middle - IMAGE[:, :, 16:32].float()).abs().mean() / 3
    uncovered = shifted[:, :, :8] if sign > 0 else shifted[:, :, -8:]
    assert torch.equal(uncovered.amax((1, 2)), torch.tensor([124, 116, 104], dtype=torch.uint8))
    for name in ("rotate", "shear_x", "shear_y", "shift_y"):
        ours, other = operate(name, 1.0, sign), operate(name, 1.0, -sign)
        assert not torch.equal(ours, other)
        centre = (slice(None), slice(23, 25), slice(23, 25))
        if name != "shift_y":
            assert (ours[centre].int() - IMAGE[centre].int()).abs().max() < 30


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(
    image=small_images(),
    strength=st.one_of(st.sampled_from([0.0, 1 / 512, 1.0]), st.floats(0, 1)),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_every_operation_takes_any_strength_and_size(
    name: str, image: Tensor, strength: float, sign: float
) -> None:
    out = OPERATIONS[NAMES.index(name)](image, strength, sign)
    assert (out.shape, out.dtype) == (image.shape, torch.uint8)
    still = name in ("autocontrast", "equalize", "invert", "posterize")  # have no zero strength
    if strength == 0.0 and not still:
        assert torch.equal(out, image)


def test_solarising_grows_from_nothing_to_the_whole_image() -> None:
    changed = [(operate("solarize", s / 10, 1) != IMAGE).float().mean() for s in range(11)]
    assert changed[0] == 0
    assert changed == sorted(changed)
    assert torch.equal(operate("solarize", 1.0, 1), 255 - IMAGE)


@settings(max_examples=60)
@given(
    image=small_images(),
    policy=st.sampled_from(["rand_augment", "three_augment", "color_jitter"]),
    magnitude=st.floats(0, 10),
    jitter=st.floats(0, 1),
    draws=st.lists(UNIFORM, min_size=10, max_size=10),
)
def test_every_policy_takes_any_setting_draw_and_size(
    image: Tensor, policy: str, magnitude: float, jitter: float, draws: list[float]
) -> None:
    config = AugmentConfig(policy=policy, magnitude=magnitude, jitter=jitter)
    out = make_policy(config)(image, np.array(draws[: draws_per_image(config)]))
    assert (out.shape, out.dtype) == (image.shape, torch.uint8)


def test_half_of_the_operations_are_applied_and_all_are_chosen() -> None:
    draws = policy_draws(POLICIES[0], 0, 0, np.arange(3000))
    applied = sum(not torch.equal(rand_augment(IMAGE, d, 9.0), IMAGE) for d in draws[:400])
    assert 0.65 < applied / 400 < 0.82  # 3/4 have at least one of two
    chosen = (draws.reshape(-1, 5)[:, 0] * len(OPERATIONS)).astype(int)
    counts = np.bincount(chosen, minlength=15)
    assert counts.min() > 320  # of 400 expected
    assert counts.max() < 480


@pytest.mark.parametrize(
    ("which", "grey", "inverted"), [(0.1, True, False), (0.5, False, True), (0.9, False, False)]
)
def test_three_augment_greys_solarises_or_blurs(which: float, grey: bool, inverted: bool) -> None:
    out = three_augment(IMAGE, np.array([which, 0.7, 0.5, 0.5, 0.5, 0.0]), 0.3)
    assert torch.equal(out[0], out[1]) == grey
    expected = torch.where(IMAGE < 128, IMAGE, 255 - IMAGE)
    assert torch.equal(out, expected) == inverted
    if not grey and not inverted:
        assert 0 < (out.float() - IMAGE.float()).abs().mean() < 30


def test_jitter_scales_brightness() -> None:
    draws = np.array([0.9, 0.0, 1.0, 0.5, 0.5, 0.0])
    assert (three_augment(IMAGE, draws, 0.3).float().mean() / IMAGE.float().mean()) > 1.1
    assert torch.equal(color_jitter(IMAGE, np.array([0.5, 0.5, 0.5, 0.0]), 0.4), IMAGE)
    brighter = color_jitter(IMAGE, np.array([0.9, 0.5, 0.5, 0.0]), 0.4)
    assert (brighter.float().mean() / IMAGE.float().mean()) > 1.1


@pytest.mark.parametrize("config", POLICIES, ids=lambda c: c.policy)
def test_draws_decide_everything(config: AugmentConfig) -> None:
    policy = make_policy(config)
    draws = policy_draws(config, 1, 2, np.arange(50))
    assert draws.shape == (50, draws_per_image(config))
    before = torch.get_rng_state()
    outs = [policy(IMAGE, row) for row in draws]
    assert all(torch.equal(policy(IMAGE, row), out) for row, out in zip(draws, outs, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(out.shape == IMAGE.shape and out.dtype == torch.uint8 for out in outs)
    assert len({out.numpy().tobytes() for out in outs}) > 25


def test_none_is_no_policy() -> None:
    assert make_policy(AugmentConfig()) is None
    more = dataclasses.replace(POLICIES[0], num_ops=3)
    assert draws_per_image(more) == 15
