"""Crop boxes and flips: inside the image, distributed as torchvision's, independent of mates."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from itpn_ray.data.transforms.crops import random_flips, random_resized_crops


def boxes(width: int, height: int, count: int, min_scale: float = 0.08) -> np.ndarray:
    ids = np.arange(count)
    sizes = np.full(count, width), np.full(count, height)
    return random_resized_crops(*sizes, ids, seed=0, epoch=0, min_scale=min_scale)


@given(width=st.integers(1, 900), height=st.integers(1, 900), scale=st.floats(0.01, 1))
def test_boxes_lie_inside_the_image(width: int, height: int, scale: float) -> None:
    top, left, tall, wide = boxes(width, height, 20, scale).T
    assert (np.minimum(top, left) >= 0).all()
    assert (np.minimum(tall, wide) >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()


def test_areas_ratios_and_places_are_distributed_as_in_torchvision() -> None:
    ours = boxes(500, 375, 20_000)
    torch.manual_seed(0)
    image = torch.empty(3, 375, 500)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(20_000)]
    )
    for name, measure in {
        "area": lambda b: b[:, 2] * b[:, 3] / (500 * 375),
        "ratio": lambda b: np.log(b[:, 3] / b[:, 2]),
        "top": lambda b: b[:, 0] / 375,
        "left": lambda b: b[:, 1] / 500,
    }.items():
        levels = np.linspace(0.05, 0.95, 10)
        difference = np.quantile(measure(ours), levels) - np.quantile(measure(theirs), levels)
        assert np.abs(difference).max() < 0.02, name


def test_a_sliver_gets_its_largest_centred_crop() -> None:
    assert boxes(1000, 30, 1).tolist() == [[0, 480, 30, 40]]
    assert boxes(30, 1000, 1).tolist() == [[480, 0, 40, 30]]


def test_a_crop_does_not_depend_on_its_batch_mates() -> None:
    widths, heights = np.array([50, 400, 90]), np.array([60, 300, 20])
    draw = {"seed": 3, "epoch": 2, "min_scale": 0.2}
    ids = np.array([7, 8, 9])
    together = random_resized_crops(widths, heights, ids, **draw)
    alone = random_resized_crops(widths[1:2], heights[1:2], ids[1:2], **draw)
    np.testing.assert_array_equal(together[1:2], alone)
    later = random_resized_crops(widths, heights, ids, **{**draw, "epoch": 3})
    assert not np.array_equal(together, later)


def test_flips_come_with_their_probability() -> None:
    ids = np.arange(20_000)
    flips = random_flips(ids, seed=0, epoch=0, probability=0.3)
    assert abs(flips.mean() - 0.3) < 0.015
    assert not random_flips(ids, seed=0, epoch=0, probability=0.0).any()
    assert random_flips(ids, seed=0, epoch=0, probability=1.0).all()
