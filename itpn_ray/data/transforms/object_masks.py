"""Masks of objects, each cut to a box and resized: what mask heads learn from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itpn_ray.data.annotations import polygons, run_lengths
from itpn_ray.data.annotations.objects import Objects

MASK_SIDE = 112
"""Side of a mask, as `itpn_ray.models.detection.base.MASK_SIDE`: its box has 112 x 112 cells."""
UNKNOWN = 255
"""Fills the mask of an object that has none, as `itpn_ray.models.detection.base.UNKNOWN`."""


def box_masks(
    objects: Objects, chosen: NDArray[np.int64], boxes: NDArray[np.float64], side: int = MASK_SIDE
) -> Tensor:
    """The part of each object's mask that lies in a box, resized to a square.

    Outlines are drawn at the size of the square; masks of run lengths give their nearest pixels.

    Args:
        objects: of an image.
        chosen: (n,) which of them.
        boxes: (n, 4) of each of these, pixels of the stored image.
        side: of the squares.

    Returns:
        (n, side, side) uint8: 0 or 1, or `UNKNOWN` all over where an object has no mask.
    """
    masks = np.full((len(chosen), side, side), UNKNOWN, dtype=np.uint8)
    for mask, number, box in zip(masks, chosen.tolist(), boxes, strict=True):
        if has_mask(objects, number):
            mask[:] = part_mask(objects, number, box, side, side)
    return torch.from_numpy(masks)


def has_mask(objects: Objects, number: int) -> bool:
    """Whether an object has an outline or run lengths."""
    return bool(objects.runs[number] or objects.polygons[number])


def part_mask(
    objects: Objects, number: int, box: NDArray[np.float64], height: int, width: int
) -> NDArray[np.bool_]:
    """What of an object's mask lies in a box, resized to (height, width); nothing without one."""
    cells = np.array([width, height])
    if objects.runs[number]:
        whole = run_lengths.decode(objects.runs[number], *objects.size)
        # For each cell of the square the pixel at its centre.
        columns, rows = (
            np.clip(
                (low + (np.arange(count) + 0.5) * ((high - low) / count)).astype(int), 0, limit - 1
            )
            for low, high, count, limit in zip(
                box[:2], box[2:], cells, objects.size[::-1], strict=True
            )
        )
        return whole[np.ix_(rows, columns)]
    scale = cells / (box[2:] - box[:2])
    parts = [
        (polygons.clip_to_box(np.array(part).reshape(-1, 2), box) - box[:2]) * scale
        for part in objects.polygons[number]
    ]
    return polygons.fill(parts, height, width)
