"""Drawn detections: boxes, masks and names lie where they belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from itpn_ray.data.annotations.objects import ObjectReader, Objects
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.synthetic.palette import class_colour
from itpn_ray.evaluation.draw_detections import Scene, detection_grid, draw_image
from itpn_ray.models.detection.base import Detections
from tests.data.made_objects import write_scenes

NAMES = ["cat", "dog", "bird"]
GREY = torch.full((3, 100, 200), 128, dtype=torch.uint8)
FOUND = Detections(
    boxes=torch.tensor([[20.0, 40.0, 80.0, 90.0], [100.0, 30.0, 190.0, 90.0]]),
    scores=torch.tensor([0.9, 0.2]),
    labels=torch.tensor([1, 2]),
    masks=None,
)
TRUTH = Objects(
    path="a.jpg",
    image_id=1,
    size=(100, 200),
    ids=np.array([1]),
    classes=np.array([0]),
    boxes=np.array([[120.0, 30.0, 180.0, 90.0]]),
    areas=np.array([3600.0]),
    crowds=np.array([False]),
    polygons=[[[120.0, 30.0, 180.0, 30.0, 180.0, 90.0, 120.0, 90.0]]],
    runs=[[]],
)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_sure_detections_have_outline_and_name() -> None:
    image = pixels(draw_image(Scene(image=GREY, found=FOUND), NAMES, side=400))
    assert image.shape == (200, 400, 3)
    coloured = (image == class_colour(1)).all(-1)
    assert coloured[180 - 1, 40:160].all()  # the box at twice its size
    assert coloured[80:180, 159].all()
    assert coloured[66:80, 42:60].any()  # its name lies above it
    assert (image[100:170, 50:150] == 128).all()  # inside nothing but the image
    assert not (image == class_colour(2)).all(-1).any()  # 0.2 is not sure enough


def test_masks_tint_what_they_cover() -> None:
    mask = torch.zeros(1, 28, 28)
    mask[:, :, :14] = 1.0
    found = Detections(
        boxes=FOUND.boxes[:1], scores=FOUND.scores[:1], labels=FOUND.labels[:1], masks=mask
    )
    image = pixels(draw_image(Scene(image=GREY, found=found), NAMES, side=200))
    tint = 0.4 * np.array(class_colour(1)) + 0.6 * 128
    assert np.abs(image[60:80, 30:45] - tint).max() <= 1.5
    assert (image[60:80, 55:75] == 128).all()


def test_annotations_stand_beside_the_detections(tmp_path: Path) -> None:
    scene = Scene(image=GREY, found=FOUND, truth=TRUTH)
    alone = pixels(Image.open(detection_grid([replace(scene, truth=None)], NAMES, tmp_path / "a")))
    both = pixels(Image.open(detection_grid([scene], NAMES, tmp_path / "new" / "b.png")))
    found, annotated = (np.array(class_colour(label)) for label in (1, 0))
    assert not (alone == annotated).all(-1).any()
    left, right = both[:, : alone.shape[1] - 20], both[:, alone.shape[1] - 20 :]
    assert (left == found).all(-1).any()
    assert not (left == annotated).all(-1).any()
    assert not (right == found).all(-1).any()
    assert (right == annotated).all(-1).sum() > 300
    assert (np.abs(right - (0.4 * annotated + 0.6 * 128)).max(-1) <= 1.5).sum() > 3000


@pytest.mark.parametrize("count", [1, 5])
def test_real_annotations_can_be_drawn(tmp_path: Path, count: int) -> None:
    data = open_dataset(write_scenes(tmp_path, train=2, val=count), "val")
    reader = ObjectReader(data)
    none = Detections(
        boxes=torch.empty(0, 4),
        scores=torch.empty(0),
        labels=torch.empty(0, dtype=torch.int64),
        masks=torch.empty(0, 28, 28),
    )
    scenes = [Scene(image=reader.image(row), found=none, truth=reader[row]) for row in range(count)]
    with Image.open(detection_grid(scenes, data.classes, tmp_path / "grid.png")) as image:
        assert image.width <= 1920
        assert image.height > 300 * ((count + 2) // 3)
