"""Objects in views: masks cut to boxes, what is left out, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.functional import interpolate

from itpn_ray.data.annotations import polygons, run_lengths
from itpn_ray.data.annotations.objects import Objects
from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.data.transforms.detection_targets import check_objects, view_objects
from itpn_ray.data.transforms.detection_views import View, training_views, whole_view
from itpn_ray.data.transforms.object_masks import MASK_SIDE, UNKNOWN, box_masks
from itpn_ray.errors import DataError
from itpn_ray.models.detection import base

WIDTH, HEIGHT = 160, 120
OUTLINES = [
    [[20.5, 15.0, 75.0, 21.5, 65.0, 60.0, 30.0, 55.0]],
    [[100.0, 50.0, 155.0, 65.0, 125.0, 115.0], [90.0, 10.0, 120.0, 10.0, 105.0, 40.0]],
    [[10.0, 75.0, 45.0, 75.0, 45.0, 110.0, 10.0, 110.0]],
]
CROP = DetectionAugmentConfig(
    short_sides=(60, 130), long_side=300, crop=0.7, crop_short_sides=(110, 130), crop_size=(60, 110)
)


def whole_mask(parts: list[list[float]]) -> NDArray[np.bool_]:
    runs = coco_mask.frPyObjects(parts, HEIGHT, WIDTH)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def three(**changes: Any) -> Objects:
    corners = [np.concatenate(parts).reshape(-1, 2) for parts in OUTLINES]
    boxes = np.array([[*c.min(0), *c.max(0)] for c in corners])
    made = Objects(
        path="a/b.jpg",
        image_id=4,
        size=(HEIGHT, WIDTH),
        ids=np.array([31, 32, 33]),
        classes=np.array([2, 0, 1]),
        boxes=boxes,
        areas=np.array([whole_mask(parts).sum() for parts in OUTLINES], dtype=float),
        crowds=np.array([False, False, False]),
        polygons=OUTLINES,
        runs=[[], [], []],
    )
    return replace(made, **changes)


def as_runs(objects: Objects) -> Objects:
    runs = [run_lengths.encode(whole_mask(parts)) for parts in objects.polygons]
    return replace(objects, polygons=[[]] * len(runs), runs=runs)


def views(count: int) -> list[View]:
    sizes = np.full(count, WIDTH), np.full(count, HEIGHT)
    return training_views(*sizes, np.arange(count), seed=1, epoch=0, config=CROP)


def overlap(first: Tensor, second: Tensor) -> float:
    return float((first & second).sum() / (first | second).sum().clamp(min=1))


def test_a_mask_has_the_side_that_detectors_expect() -> None:
    assert (MASK_SIDE, UNKNOWN) == (base.MASK_SIDE, base.UNKNOWN)


@pytest.mark.parametrize("form", [lambda o: o, as_runs], ids=["polygons", "runs"])
def test_masks_equal_those_of_the_whole_image_moved_and_cut(form: Any) -> None:
    masks = torch.from_numpy(np.stack([whole_mask(parts) for parts in OUTLINES]))
    overlaps = []
    for view in views(40):
        found = view_objects(form(three()), view, masks=True)
        direct = view.masks(masks)
        for box, label, mask in zip(found.boxes, found.labels, found.masks, strict=True):
            x1, y1, x2, y2 = box.round().long().tolist()
            if min(x2 - x1, y2 - y1) < 20:
                continue
            part = direct[[2, 0, 1].index(int(label)), y1:y2, x1:x2]
            size = (MASK_SIDE, MASK_SIDE)
            large = interpolate(part[None, None].float(), size, mode="nearest-exact")[0, 0]
            assert mask.dtype == torch.uint8
            overlaps.append(overlap(mask.bool(), large.bool()))
    assert len(overlaps) > 60
    assert min(overlaps) > 0.8  # the direct way cuts at whole pixels of the view
    assert np.mean(overlaps) > 0.95


def test_boxes_are_those_of_the_view() -> None:
    objects = three()
    flips = cut = 0
    for view in views(40):
        found = view_objects(objects, view, masks=False)
        assert found.masks is None
        moved, _ = view.boxes(torch.from_numpy(objects.boxes))
        large = (moved[:, 2:] - moved[:, :2] >= 1).all(1)
        torch.testing.assert_close(found.boxes, moved[large].float())
        assert found.labels.tolist() == torch.tensor([2, 0, 1])[large].tolist()
        flips += view.flip
        cut += not large.all()
    assert flips > 10
    assert cut > 3


def test_crowds_and_what_is_cut_away_are_left_out() -> None:
    whole = whole_view(WIDTH, HEIGHT, 120, 160)
    found = view_objects(three(crowds=np.array([False, True, False])), whole, masks=True)
    assert found.labels.tolist() == [2, 1]
    left = replace(whole, width=80, out_width=80)
    assert view_objects(three(), left, masks=False).labels.tolist() == [2, 1]
    sliver = replace(whole, left=10, top=109, height=11, out_height=8, width=100, out_width=100)
    # 0.7 pixels are left of the last one's height.
    assert view_objects(three(), sliver, masks=False).labels.tolist() == [0]


def test_an_object_that_only_its_box_reaches_into_the_view_is_left_out_with_masks() -> None:
    corner = View(top=110, left=95, height=10, width=12, out_height=40, out_width=48, flip=False)
    assert view_objects(three(), corner, masks=False).labels.tolist() == [0]
    assert len(view_objects(three(), corner, masks=True)) == 0


def test_an_image_without_objects_gives_none() -> None:
    none = three(
        **{name: getattr(three(), name)[:0] for name in ("ids", "classes", "boxes", "areas")},
        crowds=np.empty(0, bool),
        polygons=[],
        runs=[],
    )
    check_objects(none, 3)
    found = view_objects(none, whole_view(WIDTH, HEIGHT, 120, 160), masks=True)
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, MASK_SIDE, MASK_SIDE)


def test_a_thin_slice_of_a_huge_outline_is_drawn_at_once() -> None:
    box = np.array([[100.0, 20.0, 100.001, 20.001]])
    parts = [[[0.0, 0.0, 160.0, 0.0, 160.0, 120.0, 0.0, 120.0]], [], []]
    assert box_masks(three(polygons=parts), np.array([0]), box).all()


@pytest.mark.parametrize(
    ("box", "told"),
    [
        ([1.0, np.nan, 9.0, 9.0], "that is not finite"),
        ([9.0, 4.0, 9.0, 9.0], "without area"),
        ([9.0, 4.0, 2.0, 9.0], "without area"),
        ([160.0, 4.0, 170.0, 9.0], "outside of the image"),
        ([3.0, -9.0, 7.0, 0.0], "outside of the image"),
    ],
)
def test_boxes_that_teach_nothing_are_refused(box: list[float], told: str) -> None:
    boxes = three().boxes.copy()
    boxes[1] = box
    with pytest.raises(DataError, match=rf"a/b\.jpg: its object 32 has a box {told}.*doctor"):
        check_objects(three(boxes=boxes), 3)


def test_classes_that_do_not_exist_are_refused() -> None:
    check_objects(three(), 3)
    with pytest.raises(DataError, match="its object 31 is of a class beyond the 2"):
        check_objects(three(), 2)


def test_the_mask_of_an_object_without_one_is_unknown() -> None:
    bare = three(polygons=[OUTLINES[0], [], OUTLINES[2]])
    view = whole_view(WIDTH, HEIGHT, 120, 160)
    found, whole = view_objects(bare, view, masks=True), view_objects(three(), view, masks=True)
    assert found.masks is not None
    assert whole.masks is not None
    assert torch.equal(found.boxes, whole.boxes)
    assert found.masks[1].eq(UNKNOWN).all()
    assert torch.equal(found.masks[[0, 2]], whole.masks[[0, 2]])


def test_polygons_are_clipped_to_boxes() -> None:
    triangle = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    inside = polygons.clip_to_box(triangle, np.array([2.0, 2.0, 20.0, 20.0]))
    assert sorted(map(tuple, inside.tolist())) == [(2, 2), (2, 8), (8, 2)]
    assert len(polygons.clip_to_box(triangle, np.array([6.0, 6.0, 9.0, 9.0]))) == 0
    assert not polygons.fill([triangle[:2]], 12, 12).any()
