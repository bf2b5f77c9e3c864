"""Pasting: a mask of a box's size becomes one of the image's size."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn.functional import grid_sample

from itpn_ray.evaluation.pasting import encode, in_image, paste
from itpn_ray.models.detection.base import Detections

HEIGHT, WIDTH = 40, 60
BOXES = [
    [3.2, 5.7, 31.9, 33.3],
    [0.0, 0.0, 60.0, 40.0],
    [20.5, 10.5, 21.4, 11.4],  # one pixel's centre is on its border, none inside
    [-4.0, -6.0, 9.5, 8.0],
    [55.0, 30.0, 66.0, 48.0],
]


def sampled(mask: torch.Tensor, box: list[float]) -> torch.Tensor:
    """The same by PyTorch's own sampler: the mask's value at every pixel of the image."""
    x1, y1, x2, y2 = box
    x = (torch.arange(WIDTH) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(HEIGHT) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]


def test_pixels_are_those_of_linear_sampling() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(len(BOXES), 28, 28, generator=generator)
    pasted = list(paste(masks, torch.tensor(BOXES), HEIGHT, WIDTH))
    assert sum(int(mask.sum()) for mask in pasted) > 300
    for mask, box, found in zip(masks, BOXES, pasted, strict=True):
        expected = sampled(mask, box)
        clear = (expected - 0.5).abs() > 1e-4
        assert torch.equal(torch.from_numpy(found).bool()[clear], (expected >= 0.5)[clear])
        assert clear.float().mean() > 0.99


@pytest.mark.parametrize("box", [[5.0, 5.0, 5.0, 20.0], [70.0, 5.0, 90.0, 20.0]])
def test_boxes_without_a_pixel_give_empty_masks(box: list[float]) -> None:
    (found,) = paste(torch.ones(1, 28, 28), torch.tensor([box]), HEIGHT, WIDTH)
    assert found.shape == (HEIGHT, WIDTH)
    assert not found.any()


def test_run_lengths_are_those_of_coco() -> None:
    mask = np.asfortranarray(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.4, np.uint8)
    found = json.loads(json.dumps(encode(mask)))
    assert found["size"] == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(coco_mask.decode(found), mask)


def test_detections_go_back_to_the_image() -> None:
    seen = Detections(
        boxes=torch.tensor([[10.0, 20.0, 30.0, 40.0]]),
        scores=torch.tensor([0.5], dtype=torch.bfloat16),
        labels=torch.tensor([2]),
        masks=torch.rand(1, 28, 28),
    )
    found = in_image(seen, torch.tensor([100, 50]), torch.tensor([50, 100]))
    assert found.boxes.tolist() == [[20.0, 10.0, 60.0, 20.0]]
    assert found.scores.dtype == torch.float32
    assert torch.equal(found.masks, seen.masks)
