"""Lets annotations follow their image when it is turned upright or shrunk.

Coordinates are continuous pixels, (0, 0) the upper left corner of the image; masks are run
lengths (`itpn_ray.data.annotations.run_lengths`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from itpn_ray.data.annotations import run_lengths
from itpn_ray.data.annotations.faults import FaultError, check_box_in_image, check_mask_in_image
from itpn_ray.data.prepare.reencode import EncodedImage, RejectedError
from itpn_ray.data.schema import OBJECT_COLUMNS

Array = NDArray[np.float64]
T = TypeVar("T", bound=np.generic)

# EXIF orientation -> (x, y) in the image as stored, of width w and height h, to upright.
_TURN_POINT: dict[int, Callable[[Array, Array, float, float], tuple[Array, Array]]] = {
    # Points are continuous (w - x, not w - 1 - x): a pixel's centre lies at .5.
    1: lambda x, y, w, h: (x, y),
    2: lambda x, y, w, h: (w - x, y),
    3: lambda x, y, w, h: (w - x, h - y),
    4: lambda x, y, w, h: (x, h - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}
_TURN_MASK: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda mask: mask,
    2: np.fliplr,
    3: lambda mask: np.rot90(mask, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda mask: np.rot90(mask, -1),
    7: lambda mask: np.rot90(mask.T, 2),
    8: np.rot90,
}


def framed(row: Mapping[str, Any], image: EncodedImage) -> tuple[tuple[int, int], int]:
    """What the annotations of a row mean: an image's width and height, and the turn to upright.

    Args:
        row: ``frame_width`` and ``frame_height``, the size as annotated, or None.
        image: what became of the image. Annotations of its upright size follow the shrinking
            only; those of the size before turning are turned too.

    Raises:
        RejectedError: the annotations belong to an image of another size.
    """
    upright = image.source_size
    # Orientations from 5 on exchange width and height.
    stored = upright[::-1] if image.turn >= 5 else upright
    frame = (row["frame_width"] or upright[0], row["frame_height"] or upright[1])
    # Asked first: square images fit both, and tools annotate what they show, which is upright.
    if frame == upright:
        return frame, 1
    if frame == stored:
        return frame, image.turn
    raise RejectedError(
        f"annotated as {frame[0]} x {frame[1]} pixels, but has {upright[0]} x {upright[1]}"
    )


def leave_out_faulty(
    row: dict[str, Any], image: EncodedImage
) -> tuple[dict[str, Any], list[tuple[int, FaultError]]]:
    """A row without the objects of which its image shows nothing, and these: number and fault.

    Of an object whose mask does not fit the image the box is kept.

    Raises:
        RejectedError: as `framed`.
    """
    # In the frame of the annotations, for nothing has been turned yet.
    (width, height), _ = framed(row, image)
    faults: dict[int, FaultError] = {}
    unfit: set[int] = set()
    for n, (box, *mask) in enumerate(zip(row["boxes"], row["polygons"], row["runs"], strict=True)):
        try:
            check_box_in_image(box, width=width, height=height)
        except FaultError as fault:
            faults[n] = fault
        try:
            check_mask_in_image(*mask, width=width, height=height)
        except FaultError:
            unfit.add(n)
    if not faults and not unfit:
        return row, []
    masks = {
        name: [[] if n in unfit else mask for n, mask in enumerate(row[name])]
        for name in ("polygons", "runs")
    }
    left = {
        name: [v for n, v in enumerate(masks.get(name, row[name])) if n not in faults]
        for name in OBJECT_COLUMNS
    }
    return {**row, **left}, [(row["object_ids"][n], fault) for n, fault in faults.items()]


def follow(row: dict[str, Any], image: EncodedImage) -> dict[str, Any]:
    """The columns of the objects of a row, moved with the image.

    Args:
        row: ``frame_width`` and ``frame_height`` (the size that the annotations mean, or None), and
            the columns of `itpn_ray.data.schema.OBJECT_COLUMNS`.
        image: what became of the image; see `framed`.

    Raises:
        RejectedError: the annotations belong to an image of another size.
    """
    frame, turn = framed(row, image)
    move = _Move(frame, turn, image.source_size, (image.width, image.height))
    return {
        **row,
        "boxes": [move.box(box) for box in row["boxes"]],
        "areas": [area * move.scale[0] * move.scale[1] for area in row["areas"]],
        "polygons": [[move.outline(part) for part in parts] for parts in row["polygons"]],
        "runs": [move.runs(runs) if runs else [] for runs in row["runs"]],
    }


def follow_mask(mask: NDArray[T], image: EncodedImage) -> NDArray[T]:
    """A mask (H, W) moved with its image.

    Raises:
        RejectedError: the mask has another size than the image.
    """
    height, width = mask.shape
    _, turn = framed({"frame_width": width, "frame_height": height}, image)
    upright: NDArray[T] = _TURN_MASK[turn](mask)
    return nearest(upright, image.width, image.height)


def nearest(mask: NDArray[T], width: int, height: int) -> NDArray[T]:
    """A mask (H, W) at another size: of each pixel the value at its centre."""
    rows = ((np.arange(height) + 0.5) * (mask.shape[0] / height)).astype(int)
    columns = ((np.arange(width) + 0.5) * (mask.shape[1] / width)).astype(int)
    # (height, 1) and (width,) indices broadcast to (height, width).
    return mask[rows[:, None], columns]


class _Move:
    """A turn and a change of size, of coordinates and masks."""

    def __init__(
        self,
        frame: tuple[int, int],
        turn: int,
        upright: tuple[int, int],
        target: tuple[int, int],
    ) -> None:
        self.scale = (target[0] / upright[0], target[1] / upright[1])
        self._frame = frame
        self._turn = turn
        self._target = target
        # Nothing to do: coordinates keep all their digits.
        self._still = turn == 1 and target == upright

    def outline(self, flat: list[float]) -> list[float]:
        """x, y, x, y, ..."""
        if self._still:
            return flat
        points = np.asarray(flat, dtype=np.float64).reshape(-1, 2)  # (corners, 2)
        x, y = _TURN_POINT[self._turn](points[:, 0], points[:, 1], *self._frame)
        moved = np.stack([x * self.scale[0], y * self.scale[1]], axis=1)
        flat_moved: list[float] = moved.reshape(-1).tolist()
        return flat_moved

    def box(self, box: list[float]) -> list[float]:
        """x1, y1, x2, y2, still with x1 < x2 and y1 < y2."""
        if self._still:
            return box
        x1, y1, x2, y2 = self.outline(box)
        # A turn may exchange the corners.
        return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]

    def runs(self, runs: list[int]) -> list[int]:
        """Run lengths; a mask that changes size takes the nearest pixel."""
        if self._still:
            return runs
        mask = _TURN_MASK[self._turn](run_lengths.decode(runs, self._frame[1], self._frame[0]))
        return run_lengths.encode(nearest(mask, *self._target))
