"""Small detectors, and images of coloured shapes with their boxes and masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from itpn_ray.models import Rcnn, create_rcnn
from itpn_ray.models.detection.base import MASK_SIDE, Detections, Targets
from itpn_ray.models.detection.rcnn.regions import Objects, extents_and_objects

CLASSES = 3
SMALL = {"image_size": 64, "pyramid_width": 32, "fc_width": 64, "regions": 32, "proposals": 64}

Shape = tuple[int, tuple[int, int, int, int]]
"""Class (0 rectangle, 1 ellipse) and box."""


def rcnn(**changes: Any) -> Rcnn:
    """A nano detector of three classes for images of 64 pixels."""
    torch.manual_seed(0)
    return create_rcnn("nano", **{"num_classes": CLASSES, **SMALL, **changes})


def full_mask(shape: Shape, height: int, width: int) -> Tensor:
    """(H, W) float, 1 inside the shape."""
    label, (x1, y1, x2, y2) = shape
    y = torch.arange(height)[:, None] + 0.5
    x = torch.arange(width)[None, :] + 0.5
    if label == 0:
        return ((x > x1) & (x < x2) & (y > y1) & (y < y2)).float()
    across, down = (x - (x1 + x2) / 2) / ((x2 - x1) / 2), (y - (y1 + y2) / 2) / ((y2 - y1) / 2)
    return (across**2 + down**2 < 1).float()


def box_mask(shape: Shape) -> Tensor:
    """(112, 112) uint8: the shape, cut to its box and resized."""
    box = torch.tensor([shape[1]], dtype=torch.float32)
    mask = full_mask(shape, shape[1][3] + 1, shape[1][2] + 1)[None, None]
    cut = roi_align(mask, [box], MASK_SIDE, aligned=True, sampling_ratio=1)
    return (cut[0, 0] >= 0.5).to(torch.uint8)


def targets(images: list[list[Shape]], seeds: list[int] | None = None) -> Targets:
    """What `Targets` says of images with these shapes."""
    most = max(1, *map(len, images))
    boxes = torch.zeros(len(images), most, 4)
    labels = torch.full((len(images), most), -1)
    masks = torch.zeros(len(images), most, MASK_SIDE, MASK_SIDE, dtype=torch.uint8)
    for i, shapes in enumerate(images):
        for j, shape in enumerate(shapes):
            boxes[i, j] = torch.tensor(shape[1])
            labels[i, j] = shape[0]
            masks[i, j] = box_mask(shape)
    return Targets(
        boxes=boxes,
        labels=labels,
        masks=masks,
        seeds=torch.tensor(seeds or range(len(images))),
    )


def images(images: list[list[Shape]], side: int = 64) -> Tensor:
    """(B, 3, side, side): grey noise, rectangles bright in one channel and ellipses in another."""
    generator = torch.Generator().manual_seed(0)
    drawn = 0.2 * torch.randn(len(images), 3, side, side, generator=generator)
    for image, shapes in zip(drawn, images, strict=True):
        for shape in shapes:
            image[shape[0]] += 2 * full_mask(shape, side, side)
    return drawn


def sizes(batch: int, height: int = 64, width: int = 64) -> Tensor:
    """(B, 2) of equal sizes."""
    return torch.tensor([[height, width]]).repeat(batch, 1)


def alike(one: Detections, other: Detections) -> bool:
    """Whether both hold the same detections.

    Where scores are equal to the last digits, their order is a matter of rounding.
    """
    apart = (one.boxes[:, None] - other.boxes).abs().amax(-1)  # (n, m), pixels
    fits = (apart < 5e-3) & (one.labels[:, None] == other.labels)
    fits &= (one.scores[:, None] - other.scores).abs() < 5e-5
    if one.masks is not None:
        fits &= (one.masks[:, None] - other.masks).abs().amax((-1, -2)) < 1e-3
    return bool(fits.any(0).all() and fits.any(1).all())


def objects_of(given: Targets) -> list[Objects]:
    """The objects of each image."""
    return extents_and_objects(sizes(len(given.labels)), given)[1]


def alone(x: Tensor) -> Tensor:
    """The mean over one worker."""
    return x
