"""Crops of segmentation: pixel centres, the rule of the largest class, and draws by the image."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from itpn_ray.data.config import SegmentationAugmentConfig
from itpn_ray.data.transforms.detection_views import View
from itpn_ray.data.transforms.distortion import distort
from itpn_ray.data.transforms.segmentation_views import training_crop, view_mask
from itpn_ray.errors import ConfigError

CONFIG = SegmentationAugmentConfig(short_side=64, long_side=256, crop_size=32)


def whole(height: int, width: int, out_height: int, out_width: int, flip: bool = False) -> View:
    return View(
        top=0,
        left=0,
        height=height,
        width=width,
        out_height=out_height,
        out_width=out_width,
        flip=flip,
    )


def test_pixels_count_from_their_centres() -> None:
    mask = np.arange(6, dtype=np.int16)[None]
    assert view_mask(whole(1, 6, 1, 3), mask).tolist() == [[1, 3, 5]]
    assert view_mask(whole(1, 6, 1, 12), mask).tolist() == [sorted([*range(6)] * 2)]
    assert view_mask(whole(1, 6, 1, 4), mask).tolist() == [[0, 2, 3, 5]]
    assert view_mask(whole(1, 6, 1, 6, flip=True), mask).tolist() == [[5, 4, 3, 2, 1, 0]]


def test_mask_and_image_show_the_same_part() -> None:
    """An image that is its own mask, in steps that a resize does not blur away."""
    steps = np.kron(np.arange(20).reshape(4, 5), np.ones((16, 16))).astype(np.int16)
    image = torch.from_numpy(steps * 10).to(torch.uint8)[None].repeat(3, 1, 1)
    for sample_id in range(8):
        view = training_crop(steps, sample_id, seed=1, epoch=0, config=CONFIG)
        seen = view.image(image)[0].numpy().astype(int)
        assert seen.shape == (view.out_height, view.out_width) == (32, 32)
        near = np.abs(seen - 10 * view_mask(view, steps)) < 5
        assert near.mean() > 0.75  # all but the edges of the steps


def test_a_crop_is_a_function_of_seed_epoch_and_image() -> None:
    mask = np.arange(70 * 90, dtype=np.int16).reshape(70, 90) % 7
    first = training_crop(mask, 5, seed=1, epoch=2, config=CONFIG)
    assert first == training_crop(mask, 5, seed=1, epoch=2, config=CONFIG)
    others = [(6, 1, 2), (5, 2, 2), (5, 1, 3)]
    for sample_id, seed, epoch in others:
        assert first != training_crop(mask, sample_id, seed=seed, epoch=epoch, config=CONFIG)


def test_no_class_takes_more_than_its_share_where_that_can_be() -> None:
    mask = np.zeros((200, 200), dtype=np.int16)
    mask[:, 90:] = 1
    mask[:30] = -1  # ignored pixels do not count
    fixed = dataclasses.replace(CONFIG, short_side=200, ratio=(1.0, 1.0), crop_size=96)
    shares = []
    for sample_id in range(20):
        seen = view_mask(training_crop(mask, sample_id, seed=0, epoch=0, config=fixed), mask)
        counts = np.bincount(seen[seen >= 0], minlength=2)
        shares.append(counts.max() / counts.sum())
    assert max(shares) <= 0.75
    free = dataclasses.replace(fixed, largest_class=1.0)
    view = [training_crop(mask, n, seed=0, epoch=0, config=free) for n in range(40)]
    assert any(len(np.unique(view_mask(each, mask))) == 1 for each in view)


@pytest.mark.parametrize("label", [0, -1])
def test_an_image_of_one_class_or_none_is_cropped_all_the_same(label: int) -> None:
    mask = np.full((50, 60), label, dtype=np.int16)
    view = training_crop(mask, 3, seed=0, epoch=0, config=CONFIG)
    assert (view_mask(view, mask) == label).all()


def test_small_and_slim_images_keep_inside() -> None:
    for size in ((1, 1), (1, 500), (500, 1), (3, 7)):
        mask = np.zeros(size, dtype=np.int16)
        for sample_id in range(5):
            view = training_crop(mask, sample_id, seed=0, epoch=0, config=CONFIG)
            assert 1 <= view.out_height <= 32
            assert 1 <= view.out_width <= 32
            assert view.top + view.height <= size[0]
            assert view.left + view.width <= size[1]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"augment\.crop_size = 100: .*Use 96"):
        SegmentationAugmentConfig(crop_size=100)
    with pytest.raises(ConfigError, match=r"augment\.ratio"):
        SegmentationAugmentConfig(ratio=(2.0, 0.5))


def test_colours_change_by_the_image() -> None:
    images = torch.randint(256, (4, 3, 8, 9), dtype=torch.uint8)
    ids = torch.tensor([4, 9, 1, 2])
    same = distort(images, ids, seed=0, epoch=0, probability=0.0)
    torch.testing.assert_close(same, images.float(), rtol=0, atol=1e-3)
    changed = distort(images, ids, seed=0, epoch=0, probability=1.0)
    assert changed.min() >= 0
    assert changed.max() <= 255
    alone = distort(images[2:3], ids[2:3], seed=0, epoch=0, probability=1.0)
    torch.testing.assert_close(changed[2:3], alone, rtol=0, atol=0)
    assert not torch.equal(changed, distort(images, ids, seed=0, epoch=1, probability=1.0))
    grey = torch.full((1, 3, 2, 2), 120, dtype=torch.uint8)
    turned = distort(grey, ids[:1], seed=0, epoch=0, probability=1.0)
    assert (turned == turned[:, :1]).all()  # grey has no hue to turn
