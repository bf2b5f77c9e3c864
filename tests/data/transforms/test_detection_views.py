"""Views for detection: image, boxes and masks move together, and a view can be undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from torch import Tensor
from torchvision.ops import box_iou

from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.data.transforms.detection_views import View, resized, training_views, whole_view
from itpn_ray.errors import ConfigError

WIDTH, HEIGHT = 320, 240
SMALL = DetectionAugmentConfig(
    short_sides=(120, 160, 200), long_side=333, crop_short_sides=(130, 160), crop_size=(80, 150)
)
POLYGONS = [
    [40.5, 30.0, 150.0, 42.5, 130.0, 120.0, 60.0, 110.0],
    [200.0, 100.0, 310.0, 130.0, 250.0, 230.0],
    [20.0, 150.0, 90.0, 150.0, 90.0, 220.0, 20.0, 220.0],
]


def objects() -> tuple[Tensor, Tensor]:
    """Masks (n, H, W) and boxes (n, 4) as pycocotools decodes them."""
    runs = [coco_masks.merge(coco_masks.frPyObjects([p], HEIGHT, WIDTH)) for p in POLYGONS]
    masks = torch.from_numpy(np.stack([coco_masks.decode(run) for run in runs])).bool()
    x, y, w, h = torch.from_numpy(np.stack([coco_masks.toBbox(run) for run in runs])).unbind(1)
    return masks, torch.stack([x, y, x + w, y + h], dim=1)


def views(count: int = 60, config: DetectionAugmentConfig = SMALL) -> list[View]:
    ids = np.arange(count)
    sizes = np.full(count, WIDTH), np.full(count, HEIGHT)
    return training_views(*sizes, ids, seed=0, epoch=0, config=config)


def extent(masks: Tensor) -> Tensor:
    """Boxes (n, 4) around masks (n, H, W)."""
    found = []
    for mask in masks:
        y, x = mask.nonzero(as_tuple=True)
        found.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return torch.tensor(found, dtype=torch.float64)


def test_boxes_follow_the_masks_through_every_view() -> None:
    masks, boxes = objects()
    for view in views():
        seen = view.masks(masks)
        moved, kept = view.boxes(boxes)
        assert seen.shape == (3, view.out_height, view.out_width)
        whole = seen.sum((1, 2)) > 60
        assert (kept | ~whole).all()
        # A corner lies within half a pixel of the image, or of the view where that is finer.
        slack = max(1.0, view.out_width / view.width, view.out_height / view.height)
        for box, mask in zip(moved[whole], seen[whole], strict=True):
            inside = extent(mask[None])[0]
            assert (box[:2] <= inside[:2] + slack).all()
            assert (box[2:] >= inside[2:] - slack).all()


def test_areas_of_masks_scale_with_the_view() -> None:
    masks, _ = objects()
    for view in views():
        part = masks[:, view.top : view.top + view.height, view.left : view.left + view.width]
        scale = view.out_height * view.out_width / (view.height * view.width)
        expected = part.sum((1, 2)) * scale
        assert ((view.masks(masks).sum((1, 2)) - expected).abs() <= 0.05 * expected + 40).all()


def test_undoing_a_view_gives_the_boxes_back() -> None:
    _, boxes = objects()
    for view in views():
        moved, kept = view.boxes(boxes)
        low = boxes.new_tensor([view.left, view.top] * 2)
        high = low + boxes.new_tensor([view.width, view.height] * 2)
        clipped = boxes.maximum(low).minimum(high)
        iou = box_iou(view.undo_boxes(moved[kept]), clipped[kept]).diagonal()
        assert (iou > 1 - 1e-9).all()


def test_the_image_moves_with_the_boxes() -> None:
    _, boxes = objects()
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    x1, y1, x2, y2 = boxes[2].long().tolist()
    image[:, y1:y2, x1:x2] = 255
    seen = 0
    for view in views():
        moved, kept = view.boxes(boxes[2:])
        bright = view.image(image)[0] > 127
        assert bool(kept[0]) or not bright.any()
        if bright.sum() > 60:
            seen += 1
            assert (extent(bright[None]) - moved).abs().max() <= 2
    assert seen > 10


def test_sizes_crops_and_flips_are_as_configured() -> None:
    found = views(600)
    for view in found:
        assert max(view.out_width, view.out_height) <= SMALL.long_side
        shorter, longer = sorted([view.width, view.height])
        fits = {round(min(s, 333 * shorter / longer)) for s in SMALL.short_sides}
        assert min(view.out_width, view.out_height) in fits
    cropped = sum(view.width < WIDTH or view.height < HEIGHT for view in found)
    assert 240 < cropped < 360
    assert 240 < sum(view.flip for view in found) < 360
    assert not any(v.flip for v in views(50, DetectionAugmentConfig(flip=0.0)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (1067, 800)), ((480, 640), (800, 1067)), ((1000, 200), (1333, 267))],
)
def test_test_size_is_800_with_at_most_1333(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized(*size, 800, 1333) == expected
    view = whole_view(*size, 800, 1333)
    assert (view.out_width, view.out_height) == expected
    assert (view.width, view.height, view.flip) == (*size, False)


def test_tiny_and_long_images_have_views() -> None:
    ids = np.arange(200)
    for size in ((1, 1), (3, 2000)):
        for view in training_views(
            np.full(200, size[0]), np.full(200, size[1]), ids, seed=0, epoch=0, config=SMALL
        ):
            assert min(view.out_width, view.out_height, view.width, view.height) >= 1
            assert view.left + view.width <= size[0]
            assert view.top + view.height <= size[1]


def test_an_image_without_objects_has_none_in_its_view() -> None:
    view = views(1)[0]
    boxes, kept = view.boxes(torch.empty(0, 4))
    assert boxes.shape == (0, 4)
    assert kept.shape == (0,)
    masks = view.masks(torch.empty(0, HEIGHT, WIDTH, dtype=torch.bool))
    assert masks.shape == (0, view.out_height, view.out_width)


@pytest.mark.parametrize(
    "wrong", [{"short_sides": ()}, {"long_side": 100}, {"crop_size": (9, 3)}, {"flip": 1.5}]
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=f"augment.{next(iter(wrong))}"):
        DetectionAugmentConfig(**wrong)


@settings(max_examples=60)
@given(
    width=st.one_of(st.integers(1, 8), st.integers(1, 3000)),
    height=st.one_of(st.integers(1, 8), st.integers(1, 3000)),
    crop=st.tuples(st.integers(1, 600), st.integers(0, 600)),
    seed=st.integers(0, 1000),
)
def test_views_of_any_size_lie_inside_the_image(
    width: int, height: int, crop: tuple[int, int], seed: int
) -> None:
    config = DetectionAugmentConfig(crop=0.9, crop_size=(crop[0], sum(crop)))
    (view,) = training_views([width], [height], np.array([0]), seed=seed, epoch=0, config=config)
    assert 0 <= view.top <= view.top + view.height <= height
    assert 0 <= view.left <= view.left + view.width <= width
    assert min(view.height, view.width, view.out_height, view.out_width) >= 1
    assert max(view.out_height, view.out_width) <= config.long_side
