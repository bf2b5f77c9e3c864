"""What can be wrong with an annotated object: one definition for doctor, preparation and training.

Boxes are x1, y1, x2, y2 and outlines x, y, x, y, ... in pixels, (0, 0) the upper left corner of the
image; run lengths are those of `itpn_ray.data.annotations.run_lengths`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from itpn_ray.data.doctor import fault_kinds as kinds

if TYPE_CHECKING:
    from itpn_ray.data.annotations.objects import Objects

Outline = Sequence[float]
# Square pixels: corners on one line miss it by rounding only.
_LEAST_AREA = 1e-6


class FaultError(Exception):
    """An entry that cannot be used.

    Args:
        kind: one of `itpn_ray.data.doctor.fault_kinds`.
        reason: what is wrong, to be read behind the entry's name.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason


def check_box(box: Sequence[float]) -> None:
    """Refuse a box that is no number or has no area.

    Raises:
        FaultError: as said.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        raise FaultError(kinds.BOX_NOT_FINITE, "has a box that is not finite")
    if not (x2 > x1 and y2 > y1):
        where = f"{x2 - x1:g} x {y2 - y1:g} pixels at ({x1:g}, {y1:g})"
        raise FaultError(kinds.BOX_WITHOUT_AREA, f"has a box without area: {where}")


def check_box_in_image(box: Sequence[float], *, width: int, height: int) -> None:
    """Refuse a box of which the image shows nothing.

    Raises:
        FaultError: as said.
    """
    if not _reaches_into(box[0::2], box[1::2], width, height):
        corners = f"({box[0]:g}, {box[1]:g}) to ({box[2]:g}, {box[3]:g})"
        raise FaultError(
            kinds.BOX_OUTSIDE,
            f"has a box outside of the image: {corners} in {width} x {height} pixels",
        )


def check_mask_in_image(
    outlines: Sequence[Outline], runs: Sequence[int], *, width: int, height: int
) -> None:
    """Refuse a mask of which the image shows nothing, or that is of another size.

    Raises:
        FaultError: as said.
    """
    if outlines and not any(_reaches_into(o[0::2], o[1::2], width, height) for o in outlines):
        raise FaultError(kinds.NO_MASK, "has its outline outside of the image")
    if runs and sum(runs) != width * height:
        raise FaultError(
            kinds.RUN_LENGTHS,
            f"has run lengths of {sum(runs)} pixels for {width} x {height}",
        )


def check_mask(outlines: Sequence[Outline], runs: Sequence[int]) -> None:
    """Refuse a mask that marks nothing.

    Args:
        outlines: those that have an area.
        runs: run lengths, or none.

    Raises:
        FaultError: as said.
    """
    if runs and min(runs) < 0:
        raise FaultError(kinds.RUN_LENGTHS, "has run lengths below zero")
    # Runs alternate 0, 1, 0, ...: those at odd places are marked.
    if not outlines and not any(runs[1::2]):
        raise FaultError(kinds.NO_MASK, "has a mask without area")


def faults_of(objects: Objects, classes: int) -> Iterator[tuple[int, FaultError]]:
    """The objects of a stored image that cannot be used: number and fault of each.

    Args:
        objects: of the image.
        classes: how many there are.
    """
    height, width = objects.size
    shapes = zip(objects.boxes.tolist(), objects.polygons, objects.runs, strict=True)
    for number, (box, outlines, runs) in enumerate(shapes):
        try:
            if not 0 <= objects.classes[number] < classes:
                raise FaultError(kinds.CATEGORY, f"is of a class beyond the {classes}")
            check_box(box)
            check_box_in_image(box, width=width, height=height)
            if outlines or runs:
                # Lines and points among the parts are tolerated as long as one part has an area.
                check_mask([outline for outline in outlines if has_area(outline)], runs)
                check_mask_in_image(outlines, runs, width=width, height=height)
        except FaultError as fault:
            yield int(objects.ids[number]), fault


def has_area(outline: Outline) -> bool:
    """Whether an outline encloses something: three corners at least, not all on one line."""
    if len(outline) < 6 or len(outline) % 2:
        return False
    corners = np.reshape(outline, (-1, 2)) - outline[:2]  # (corners, xy) from the first
    # From the farthest corner: one that repeats the first would make every product 0.
    x, y = corners[np.abs(corners).sum(1).argmax()]
    # Each product is twice the area of a triangle; all are 0 where the corners lie on one line.
    return bool(np.abs(corners[:, 0] * y - corners[:, 1] * x).max() > _LEAST_AREA)


def overshoot(box: Sequence[float], width: int, height: int) -> float:
    """Pixels by which a box reaches beyond the border; 0 or less where it does not."""
    return max(-box[0], -box[1], box[2] - width, box[3] - height)


def _reaches_into(x: Sequence[float], y: Sequence[float], width: int, height: int) -> bool:
    return _overlap(x, width) and _overlap(y, height)


def _overlap(places: Sequence[float], side: int) -> bool:
    # Without any corner the defaults make both comparisons false.
    return min(places, default=side) < side and max(places, default=0) > 0
