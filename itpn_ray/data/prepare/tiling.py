"""Cuts images with turned boxes into tiles, as DOTA's large images are trained on.

Tiles of ``side`` pixels lie ``side - gap`` apart; the last of a row or column ends with the image
(the rule of DOTA's development kit), and an image smaller than a tile is one tile. An object is
learned from in each tile that shows 70 % of its area or more, with its whole box, which may reach
beyond the tile. In tiles that show less of it it is difficult: neither to be found nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from itpn_ray.data.prepare.reencode import EncodedImage, encode_full, histogram_of
from itpn_ray.models.rotated.boxes import from_corners
from itpn_ray.models.rotated.overlap import intersection

LEAST_SHOWN = 0.7
"""Fraction of an object's area in a tile from which it is an object of the tile."""
_LEAST_AREA = 1e-6  # square pixels
_LEAST_FRACTION = 1e-6  # less is rounding


def tile_places(width: int, height: int, side: int, gap: int) -> list[tuple[int, int]]:
    """The left upper corners (x, y) of an image's tiles, row by row; side 0: one tile, the image.

    Args:
        width: of the image, pixels.
        height: likewise.
        side: of a tile, pixels.
        gap: pixels that neighbouring tiles share.
    """
    columns, rows = (_starts(whole, side or whole, gap) for whole in (width, height))
    return [(x, y) for y in rows for x in columns]


def _starts(whole: int, side: int, gap: int) -> list[int]:
    last = max(0, whole - side)
    # The range stops before the last start, which is added; it may lie less than a step away. One
    # tile has no step: an image may be as wide as the gap.
    return [*range(0, last, side - gap), last] if last else [0]


def tiles(
    row: Mapping[str, Any], upright: Image.Image, whole: EncodedImage, side: int, gap: int
) -> Iterator[tuple[dict[str, Any], EncodedImage]]:
    """The tiles of an image, each with the objects that it shows.

    Args:
        row: the image's own, with the columns of its objects.
        upright: the image.
        whole: what `row` was made to follow; its histogram is that of the tiles measured.
        side: of a tile, pixels; 0: one tile, the image.
        gap: pixels that neighbouring tiles share.
    """
    places = tile_places(*upright.size, side, gap)
    # An image smaller than a tile, or without tiles, is one: tiles end with the image.
    ends = [min(side or whole, whole) for whole in upright.size]
    shown = _shown(row["polygons"], places, ends)  # (tiles, objects)
    for (x, y), fractions in zip(places, shown, strict=True):
        part = upright.crop((x, y, x + ends[0], y + ends[1]))
        # Only a tile that is the whole image can keep the file's bytes.
        kept = whole.kept and part.size == upright.size
        image = replace(
            whole,
            data=whole.data if kept else encode_full(part),
            kept=kept,
            width=part.width,
            height=part.height,
            source_size=part.size,
            histogram=None if whole.histogram is None else histogram_of(part),
        )
        yield {**row, **_objects(row, (x, y), fractions)}, image


def _shown(
    polygons: list[list[list[float]]], places: list[tuple[int, int]], sides: Sequence[int]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The fraction of each object's box that each tile shows, (tiles, objects).

    Args:
        polygons: corners of each object's box.
        places: of the tiles.
        sides: width and height of every tile, no part of which is outside the image.
    """
    # (n, 8) corners; (0,) where there is no object.
    corners = torch.tensor([parts[0] for parts in polygons], dtype=torch.float64)
    boxes = from_corners(corners.reshape(-1, 4, 2))  # (n, 5)
    corner = torch.tensor(places, dtype=torch.float64)  # (tiles, xy)
    side = torch.tensor(sides, dtype=torch.float64)  # (2,)
    # (tiles, 5): centre, sides and angle 0.
    angle = torch.zeros(len(places), 1, dtype=torch.float64)
    rectangles = torch.cat([corner + side / 2, side.expand(len(places), 2), angle], dim=1)
    # (1, n, 5) with (tiles, 1, 5) -> (tiles, n).
    shared = intersection(boxes[None], rectangles[:, None])
    # No division by zero for a box without area.
    fractions = shared / (boxes[:, 2] * boxes[:, 3]).clamp(min=_LEAST_AREA)
    # The smallest box around four corners may reach where they do not, by rounding at least.
    corners = corners.reshape(-1, 4, 2)
    low, high = corners.amin(dim=1), corners.amax(dim=1)  # (n, xy)
    reaches = (low < corner[:, None] + side) & (high > corner[:, None])
    return torch.where(reaches.all(dim=-1), fractions, 0.0).numpy()


def _objects(
    row: Mapping[str, Any], place: tuple[int, int], fractions: np.ndarray[Any, Any]
) -> dict[str, Any]:
    """The columns of the objects of a tile."""
    chosen = np.flatnonzero(fractions > _LEAST_FRACTION).tolist()
    # (4,): x, y, x, y
    shift = np.array(place * 2, dtype=np.float64)
    difficult = [row["crowds"][n] for n in chosen]
    return {
        **{name: [row[name][n] for n in chosen] for name in ("object_ids", "classes", "areas")},
        # Tile coordinates: x and y of both corners, and below of all four.
        "boxes": [(np.array(row["boxes"][n]) - shift).tolist() for n in chosen],
        "polygons": [
            [(np.array(row["polygons"][n][0]) - np.tile(shift, 2)).tolist()] for n in chosen
        ],
        "runs": [[] for _ in chosen],
        "difficult": difficult,
        "crowds": [
            hard or bool(fractions[n] < LEAST_SHOWN)
            for n, hard in zip(chosen, difficult, strict=True)
        ],
        "origin": list(place),
    }
