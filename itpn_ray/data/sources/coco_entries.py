"""Reads single entries of a COCO annotation file, and refuses those that cannot be used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from reprlib import repr as short
from typing import Any, TypeGuard

from itpn_ray.data.annotations import run_lengths
from itpn_ray.data.annotations.faults import (
    FaultError,
    check_box,
    check_in_image,
    check_mask,
    has_area,
    overshoot,
)
from itpn_ray.data.doctor import fault_kinds as kinds

Frame = tuple[int, int]
"""Width and height of an image as annotated, pixels."""
Remark = tuple[str, str]
"""Kind and reason of what is odd about an object that can be used."""
# Annotations count pixels from 0 or from 1, to the last one or beyond it.
_TOLERATED = 1.0
_LARGEST = 2**63
_LONGEST = 2**31


def whole(item: Mapping[str, Any], key: str) -> int:
    """A whole number of an entry.

    Raises:
        FaultError: it is something else.
    """
    value = item.get(key)
    if not isinstance(value, int) or abs(value) >= _LARGEST:
        raise FaultError(kinds.ENTRY, f"has {short(value)} as its {key}")
    return value


def parse_category(item: Mapping[str, Any]) -> tuple[int, str]:
    """Number and name of a category; the name without stray blanks.

    Raises:
        FaultError: one of them is missing.
    """
    name = item.get("name")
    if not isinstance(name, str):
        raise FaultError(kinds.ENTRY, f"has {short(name)} as its name")
    return whole(item, "id"), name.strip()


def parse_image(item: Mapping[str, Any]) -> dict[str, Any]:
    """Number, file_name, width and height of an image; the last two None where they are not told.

    Raises:
        FaultError: it cannot be used.
    """
    name = item.get("file_name")
    if not isinstance(name, str) or not name:
        raise FaultError(kinds.ENTRY, f"has {short(name)} as its file_name")
    sides = {key: _side(item, key) for key in ("width", "height")}
    return {"image_id": whole(item, "id"), "file_name": name, **sides}


def _side(item: Mapping[str, Any], key: str) -> int | None:
    value = item.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 < value < _LONGEST or value != int(value):
        raise FaultError(kinds.WRONG_SIZE, f"has {value!r} as its {key}")
    return int(value)


def has_mask(item: Mapping[str, Any]) -> bool:
    """Whether an annotation says anything of a mask."""
    found = item.get("segmentation")
    return any(found) if isinstance(found, list) else bool(found)


def parse_object(
    item: Mapping[str, Any], labels: Mapping[int, int], frame: Frame | None, *, masked: bool
) -> tuple[dict[str, Any], list[Remark]]:
    """One annotation as values of `itpn_ray.data.schema.OBJECT_COLUMNS`.

    Args:
        item: the entry.
        labels: category number -> label.
        frame: of its image, where that is known.
        masked: whether it must have a mask.

    Returns:
        The values, and what is odd about them.

    Raises:
        FaultError: it cannot be used.
    """
    object_id, category = whole(item, "id"), whole(item, "category_id")
    if category not in labels:
        raise FaultError(kinds.CATEGORY, f"is of category {category}, which is not listed")
    x, y, width, height = _numbers(item.get("bbox"), "bbox", 4)
    box = [x, y, x + width, y + height]
    check_box(box)
    parts, runs = _mask(item.get("segmentation"), frame)
    outlines = [part for part in parts if has_area(part)]
    if masked:
        check_mask(outlines, runs)
    if frame is not None:
        check_in_image(box, outlines, runs, width=frame[0], height=frame[1])
    area = item.get("area")
    values = {
        "object_ids": object_id,
        "classes": labels[category],
        "boxes": box,
        "areas": width * height if area is None else _numbers([area], "area", 1)[0],
        "crowds": bool(item.get("iscrowd", 0)),
        "polygons": outlines,
        "runs": runs,
    }
    return values, list(_remarks(box, len(parts) - len(outlines), frame))


def _remarks(box: Sequence[float], left_out: int, frame: Frame | None) -> Iterator[Remark]:
    beyond = overshoot(box, *frame) if frame is not None else 0.0
    if beyond > _TOLERATED:
        yield kinds.BOX_CUT, f"has a box that reaches {beyond:g} pixels beyond the image"
    if left_out:
        yield kinds.PART_LEFT_OUT, f"has an outline with parts without area: {left_out}"


def _mask(found: Any, frame: Frame | None) -> tuple[list[list[float]], list[int]]:
    """Outlines and run lengths of a segmentation, whatever they enclose."""
    if isinstance(found, dict):
        return [], _runs(found, frame)
    if found is None:
        return [], []
    if not isinstance(found, list):
        raise FaultError(kinds.NO_MASK, f"has {type(found).__name__} as its segmentation")
    return [_numbers(part, "segmentation") for part in found], []


def _runs(found: Mapping[str, Any], frame: Frame | None) -> list[int]:
    counts, size = found.get("counts"), found.get("size")
    try:
        runs = run_lengths.from_text(counts) if isinstance(counts, str) else counts
    except ValueError as error:
        raise FaultError(kinds.RUN_LENGTHS, f"has unreadable run lengths: {error}") from error
    if not (_are_whole(runs) and _are_whole(size) and len(size) == 2):
        told = f"{short(runs)} for a size of {short(size)}"
        raise FaultError(kinds.RUN_LENGTHS, f"has the run lengths {told}")
    height, width = size
    if sum(runs) != width * height or (frame is not None and (width, height) != frame):
        told = f"run lengths of {sum(runs)} pixels for {width} x {height}"
        image = f" in an image of {frame[0]} x {frame[1]}" if frame is not None else ""
        raise FaultError(kinds.RUN_LENGTHS, f"has {told}{image}")
    return runs


def _are_whole(found: Any) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(
        isinstance(number, int) and abs(number) < _LONGEST for number in found
    )


def _numbers(found: Any, key: str, count: int | None = None) -> list[float]:
    """A list of finite numbers; of a box also others, which its own check tells.

    Raises:
        FaultError: it is something else.
    """
    try:
        numbers = [float(value) for value in found] if isinstance(found, list) else None
    except (ValueError, TypeError, OverflowError):
        numbers = None
    if numbers is None or count not in (None, len(numbers)):
        raise FaultError(kinds.ENTRY, f"has {short(found)} as its {key}")
    if key != "bbox" and not all(map(math.isfinite, numbers)):
        kind = kinds.NO_MASK if key == "segmentation" else kinds.ENTRY
        raise FaultError(kind, f"has a {key} that is not finite")
    return numbers
