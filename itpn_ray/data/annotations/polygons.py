"""Polygons: cut along lines, and drawn as masks.

Shapes: outlines (n, 2) float64 corners (x, y) in pixels, (0, 0) the upper left corner.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def clip(outline: Array, normal: Array, limit: float) -> Array:
    """The part of a polygon where normal . (x, y) <= limit; no corners where there is none.

    A polygon that falls into several pieces stays one, joined along the cut by lines without area.
    """
    depth = outline @ normal - limit
    # The corner after each corner, and its depth: together the edges.
    there, beyond = np.roll(outline, -1, axis=0), np.roll(depth, -1)
    # A corner on the line itself stays, and is no crossing: it would come twice.
    crosses = ((depth < 0) & (beyond > 0)) | ((beyond < 0) & (depth > 0))
    fraction = np.divide(depth, depth - beyond, out=np.zeros_like(depth), where=crosses)
    crossing = outline + (there - outline) * fraction[:, None]
    # Each corner that stays, then the point where the line after it crosses: (n, 2, xy).
    # Sutherland and Hodgman, for all corners at once.
    corners = np.stack([outline, crossing], axis=1)
    return corners[np.stack([depth <= 0, crosses], axis=1)]


def clip_to_box(outline: Array, box: Array) -> Array:
    """The part of a polygon inside a box, (4,) x1, y1, x2, y2."""
    for axis in (0, 1):
        normal = np.eye(2)[axis]
        # x >= x1 is -x <= -x1: both sides of an axis by the same function.
        outline = clip(outline, -normal, -box[axis])
        outline = clip(outline, normal, box[2 + axis])
    return outline


def fill(outlines: Iterable[Array], height: int, width: int) -> NDArray[np.bool_]:
    """The mask (height, width) of a thing with these parts, as COCO's tools draw it."""
    from hotcoco import mask as coco

    # COCO's tools need three corners; two enclose nothing.
    parts = [outline.reshape(-1).tolist() for outline in outlines if len(outline) > 2]
    if not parts:
        return np.zeros((height, width), dtype=np.bool_)
    runs: Any = coco.frPyObjects(parts, height, width)
    return coco.decode(coco.merge(runs)).astype(np.bool_)
