"""Masks of objects, each cut to a box and resized: what mask heads learn from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itpn_ray.data import polygons, run_lengths
from itpn_ray.data.objects import Objects
from itpn_ray.errors import DataError

MASK_SIDE = 112
"""Side of a mask, as `itpn_ray.models.detection.base.MASK_SIDE`: its box has 112 x 112 cells."""


def box_masks(
    objects: Objects, chosen: NDArray[np.int64], boxes: NDArray[np.float64], side: int = MASK_SIDE
) -> Tensor:
    """The part of each object's mask that lies in a box, resized to a square.

    Outlines are drawn at the size of the square; masks of run lengths give their nearest pixels.

    Args:
        objects: of a picture.
        chosen: (n,) which of them.
        boxes: (n, 4) of each of these, pixels of the stored picture.
        side: of the squares.

    Returns:
        (n, side, side) uint8, 0 or 1.

    Raises:
        DataError: an object has no mask; it carries the picture's path.
    """
    masks = np.zeros((len(chosen), side, side), dtype=np.uint8)
    for mask, number, box in zip(masks, chosen.tolist(), boxes, strict=True):
        if objects.runs[number]:
            mask[:] = _sampled(objects.runs[number], objects.size, box, side)
        elif objects.polygons[number]:
            scale = side / (box[2:] - box[:2])
            parts = [
                (polygons.clip_to_box(np.array(part).reshape(-1, 2), box) - box[:2]) * scale
                for part in objects.polygons[number]
            ]
            mask[:] = polygons.fill(parts, side, side)
        else:
            raise DataError(
                objects.path,
                None,
                f"its object {objects.ids[number]} has no mask",
                "Train a detector of boxes, or prepare data with masks",
            )
    return torch.from_numpy(masks)


def _sampled(
    runs: list[int], size: tuple[int, int], box: NDArray[np.float64], side: int
) -> NDArray[np.bool_]:
    """(side, side): what lies under the centres of the square's cells."""
    whole = run_lengths.decode(runs, *size)
    share = (np.arange(side) + 0.5) / side
    columns, rows = (
        np.clip((box[axis] + share * (box[axis + 2] - box[axis])).astype(int), 0, limit - 1)
        for axis, limit in ((0, size[1]), (1, size[0]))
    )
    return whole[np.ix_(rows, columns)]
