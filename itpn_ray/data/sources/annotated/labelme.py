"""One label file of labelme: JSON with the image's size and a list of shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.sources.annotated.coco_entries import Frame
from itpn_ray.data.sources.annotated.label_file import Label, LabelFile
from itpn_ray.data.sources.text import decode
from itpn_ray.formatting import number_of

_CIRCLE_CORNERS = 64  # a polygon of so many leaves out 0.2 % of the circle


def parse_labelme(data: bytes, frame: Frame | None) -> LabelFile:
    """Read a label file; see the module.

    Args:
        data: its bytes.
        frame: not looked at: the file tells it.

    Raises:
        ValueError: it is no JSON, or has no shapes.
    """
    del frame
    try:
        found = json.loads(decode(data))
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    shapes = found.get("shapes") if isinstance(found, dict) else None
    if not isinstance(shapes, list):
        raise ValueError("has no list of shapes")
    labels = tuple(_read(f"shape {number}", shape) for number, shape in enumerate(shapes, 1))
    return LabelFile(frame=_frame(found), labels=labels)


def _frame(found: Mapping[str, Any]) -> Frame | None:
    width, height = (found.get(key) for key in ("imageWidth", "imageHeight"))
    # Sides are stored as int32.
    if isinstance(width, int) and isinstance(height, int) and 0 < width < 2**31 > height > 0:
        return width, height
    return None


def _read(entry: str, shape: Any) -> Label:
    try:
        return Label(entry=entry, fields=_fields(shape))
    except FaultError as fault:
        return Label(entry=entry, fields=fault)


def _fields(shape: Any) -> dict[str, Any]:
    if not isinstance(shape, dict):
        raise FaultError(kinds.ENTRY, f"is {short(shape)}")
    kind = shape.get("shape_type") or "polygon"
    points = _points(shape)
    fields: dict[str, Any] = {"category_id": shape.get("label")}
    if kind == "polygon":
        return fields | {"segmentation": [[value for point in points for value in point]]}
    if kind == "rectangle" and len(points) > 1:
        # Corners come in the order in which they were drawn.
        x, y = sorted(point[0] for point in points), sorted(point[1] for point in points)
        return fields | {"bbox": [x[0], y[0], x[-1] - x[0], y[-1] - y[0]]}
    if kind == "circle" and len(points) == 2:
        return fields | {"segmentation": [_circle(*points)]}
    raise FaultError(
        kinds.ENTRY, f"is a {kind} of {number_of(len(points), 'point')}, which has no box"
    )


def _points(shape: Mapping[str, Any]) -> list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError) as error:
        raise FaultError(kinds.ENTRY, f"has {short(shape.get('points'))} as its points") from error


def _circle(centre: tuple[float, float], edge: tuple[float, float]) -> list[float]:
    """The outline of a circle, from its centre and a point of it."""
    radius = math.dist(centre, edge)
    turns = (2 * math.pi * n / _CIRCLE_CORNERS for n in range(_CIRCLE_CORNERS))
    corners = ((math.cos(turn), math.sin(turn)) for turn in turns)
    return [c + radius * part for corner in corners for c, part in zip(centre, corner, strict=True)]
