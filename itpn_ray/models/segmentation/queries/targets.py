"""What queries are to find: the classes of an image, each with its pixels and its box.

Shapes: B images of H x W pixels, M places for classes, P points of an image. Boxes are (x, y,
width, height), the centre first, in shares of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert

from itpn_ray.rng import Stream, uniform_torch

OVERSAMPLE = 3
"""Points that the least certain ones are chosen from, for each point that is judged."""
IMPORTANT = 0.75
"""Share of the judged points that is chosen so; the others are where they fall (PointRend, 3.2)."""


@dataclass(frozen=True, kw_only=True)
class ImageClasses:
    """The classes in B images, padded to M places."""

    labels: Tensor
    """(B, M) int64, -1 where there is none."""
    boxes: Tensor
    """(B, M, 4) float32, around all pixels of a class."""

    @property
    def there(self) -> Tensor:
        """(B, M) bool."""
        return self.labels >= 0


def image_classes(masks: Tensor, num_classes: int) -> ImageClasses:
    """The classes that occur in masks.

    Args:
        masks: (B, H, W) integers, class or -1.
        num_classes: how many there are.
    """
    batch, height, width = masks.shape
    counts = masks.new_zeros(batch, num_classes + 1, dtype=torch.int64)
    # Shifted by one: ignored pixels, -1, are counted in front and left out.
    places = masks.flatten(1).long() + 1
    counts.scatter_add_(1, places, torch.ones_like(places))
    occurs = counts[:, 1:] > 0  # (B, K)
    # One place at least, so that no tensor is empty and every parameter has a gradient.
    most = max(1, int(occurs.sum(1).max()))
    # Classes that occur come first, in their order.
    classes = occurs.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    labels = torch.where(occurs.gather(1, classes), classes, -1)
    # (B, M, H, W): the pixels of each class.
    own = (masks[:, None] == classes[..., None, None]) & (labels >= 0)[..., None, None]
    x1, x2 = _extent(own.any(2))
    y1, y2 = _extent(own.any(3))
    size = torch.tensor([width, height, width, height], device=masks.device)
    boxes = torch.stack([x1, y1, x2, y2], dim=-1) / size
    return ImageClasses(labels=labels, boxes=box_convert(boxes, "xyxy", "cxcywh"))


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points of B images, (pool) to choose from and (rest) to be judged as they are."""

    features: Tensor
    """(B, C, pool + rest) float32: what masks are made of, there."""
    truth: Tensor
    """(B, pool + rest) int64: class or -1."""
    judged: int
    """Points that a mask is judged at."""

    @property
    def chosen(self) -> int:
        """Of these, the least certain of the pool."""
        return int(IMPORTANT * self.judged)

    @property
    def pool(self) -> int:
        """Points to choose from."""
        return self.truth.shape[1] - (self.judged - self.chosen)


def draw_points(features: Tensor, masks: Tensor, seeds: Tensor, count: int) -> Points:
    """Points of each image, the same for all its masks, as functions of its seed.

    A mask is a product of a query and the features, and so is its value between pixels, for
    interpolation is linear: features are looked up once, for all queries of all layers.

    Args:
        features: (B, C, h, w).
        masks: (B, H, W) integers, class or -1.
        seeds: (B,) int64.
        count: points that a mask is judged at.
    """
    # A pool to choose the least sure from, and the rest at random.
    number = OVERSAMPLE * count + count - int(IMPORTANT * count)
    draws = uniform_torch(0, 0, seeds, Stream.POINTS, 2 * number).unflatten(1, (number, 2))
    height, width = masks.shape[1:]
    columns, rows = (draws[..., 0] * width).long(), (draws[..., 1] * height).long()
    truth = masks.flatten(1).long().gather(1, rows * width + columns)
    # grid_sample counts from -1 to 1.
    seen = F.grid_sample(
        features.float(), (2 * draws - 1)[:, None], padding_mode="border", align_corners=False
    )
    return Points(features=seen[:, :, 0], truth=truth, judged=count)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last place of (..., n) bool that is True."""
    spots = occupied.int()
    return spots.argmax(-1), occupied.shape[-1] - spots.flip(-1).argmax(-1)
