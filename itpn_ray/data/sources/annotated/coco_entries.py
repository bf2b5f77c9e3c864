"""Reads single entries of a COCO annotation file, and refuses those that cannot be used.

Numbers may be written as text, as tables and web forms do. What decides is the box: a mask or an
area that cannot be used is left out alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from reprlib import repr as short
from typing import Any, TypeGuard

from itpn_ray.data.annotations import run_lengths
from itpn_ray.data.annotations.faults import (
    FaultError,
    check_box,
    check_box_in_image,
    check_mask,
    check_mask_in_image,
    has_area,
    overshoot,
)
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.sources.annotated.ids import Id, is_text, read_id

Frame = tuple[int, int]
"""Width and height of an image as annotated, pixels."""
Remark = tuple[str, str]
"""Kind and reason of what is odd about an object that can be used."""
Mask = tuple[list[list[float]], list[int]]
"""Outlines and run lengths, of which one at least is empty."""
# Annotations count pixels from 0 or from 1, to the last one or beyond it.
_TOLERATED = 1.0
# Sides and run lengths are stored as int32.
_LONGEST = 2**31
_FLAGS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def parse_category(item: Mapping[str, Any]) -> tuple[Id, str]:
    """Id and name of a category; the name without stray blanks.

    Raises:
        FaultError: one of them is missing.
    """
    name = item.get("name")
    # True and False are ints for Python, but no names.
    if isinstance(name, bool) or not (isinstance(name, int | float) or is_text(name)):
        raise FaultError(kinds.ENTRY, f"has {short(name)} as its name")
    return read_id(item, "id"), str(name).strip()


def parse_image(item: Mapping[str, Any]) -> dict[str, Any]:
    """Id, file_name, width and height of an image; the last two None where they are not given.

    Raises:
        FaultError: it cannot be used.
    """
    name = item.get("file_name")
    if not is_text(name) or not name:
        raise FaultError(kinds.ENTRY, f"has {short(name)} as its file_name")
    sides = {key: _side(item, key) for key in ("width", "height")}
    return {"id": read_id(item, "id"), "file_name": name, **sides}


def _side(item: Mapping[str, Any], key: str) -> int | None:
    value = item.get(key)
    if value is None:
        return None
    side = _number(value)
    if side is None or not 0 < side < _LONGEST or side != int(side):
        raise FaultError(kinds.WRONG_SIZE, f"has {short(value)} as its {key}")
    return int(side)


def parse_object(
    item: Mapping[str, Any], labels: Mapping[Id, int], frame: Frame | None
) -> tuple[dict[str, Any], list[Remark]]:
    """One annotation as values of `itpn_ray.data.schema.OBJECT_COLUMNS` but for its number.

    Args:
        item: the entry.
        labels: category id -> label.
        frame: of its image, where that is known.

    Returns:
        The values, and what is odd about them.

    Raises:
        FaultError: it cannot be used.
    """
    category = read_id(item, "category_id")
    if category not in labels:
        raise FaultError(kinds.CATEGORY, f"is of category {category!r}, which is not listed")
    # The mask first: a box that is missing is drawn around it.
    (outlines, runs), remarks = _usable_mask(item.get("segmentation"), frame)
    box = _box(item, outlines, runs)
    check_box(box)
    if frame is not None:
        check_box_in_image(box, width=frame[0], height=frame[1])
        beyond = overshoot(box, *frame)
        if beyond > _TOLERATED:
            reason = f"has a box that reaches {beyond:g} pixels beyond the image"
            remarks.append((kinds.BOX_CUT, reason))
    area = _number(item.get("area"))
    if area is None or not 0 < area < math.inf:
        if item.get("area") is not None:
            remarks.append((kinds.AREA_MADE, f"has {short(item['area'])} as its area"))
        # Metrics by size need an area; the box's stands in for one that is missing.
        area = (box[2] - box[0]) * (box[3] - box[1])
    values = {
        "classes": labels[category],
        "boxes": box,
        "areas": area,
        "crowds": _flag(item, "iscrowd"),
        "polygons": outlines,
        "runs": runs,
    }
    return values, remarks


def _box(
    item: Mapping[str, Any], outlines: Sequence[Sequence[float]], runs: Sequence[int]
) -> list[float]:
    """x1, y1, x2, y2 of a box x, y, width, height; around the mask where there is no box."""
    found = item.get("bbox")
    # Programs that draw outlines only write no boxes at all.
    if found in (None, "", []) and outlines:
        x = [value for outline in outlines for value in outline[0::2]]
        y = [value for outline in outlines for value in outline[1::2]]
        return [min(x), min(y), max(x), max(y)]
    if found in (None, "", []) and runs:
        return run_lengths.bounds(runs, item["segmentation"]["size"][0])
    # "[1, 2, 3, 4]" is what a CSV column makes of a list.
    numbers = re.findall(r"[^\s,;()\[\]]+", found) if isinstance(found, str) else found
    x1, y1, width, height = _numbers(numbers, "bbox", 4)
    return [x1, y1, x1 + width, y1 + height]


def _usable_mask(found: Any, frame: Frame | None) -> tuple[Mask, list[Remark]]:
    """A mask with what is odd about it; none where it cannot be used or there is none."""
    if not found or found == [[]]:
        return ([], []), []
    try:
        parts, runs = _mask(found, frame)
        outlines = [part for part in parts if has_area(part)]
        # After parts without area are out: the rest may still be a mask.
        check_mask(outlines, runs)
        if frame is not None:
            check_mask_in_image(outlines, runs, width=frame[0], height=frame[1])
    except FaultError as fault:
        return ([], []), [(kinds.MASK_IGNORED, fault.reason)]
    without = len(parts) - len(outlines)
    reason = f"has an outline with parts without area: {without}"
    return (outlines, runs), [(kinds.PART_LEFT_OUT, reason)] if without else []


def _mask(found: Any, frame: Frame | None) -> Mask:
    """Outlines and run lengths of a segmentation, whatever they enclose."""
    if isinstance(found, dict):
        return [], _runs(found, frame)
    if not isinstance(found, list):
        raise FaultError(kinds.NO_MASK, f"has {type(found).__name__} as its segmentation")
    return [_numbers(part, "segmentation") for part in _parts(found)], []


def _parts(found: list[Any]) -> Iterator[Any]:
    """The outlines of a list; one that is not in a list of its own, or of points, is one too."""
    # [[x, y], [x, y], ...] is one outline of points; [[x, y, x, y, ...]] is COCO's list of
    # outlines.
    if all(isinstance(part, list) and len(part) == 2 for part in found):
        yield [value for point in found for value in point]
    elif any(isinstance(part, list) for part in found):
        yield from found
    else:
        yield found


def _runs(found: Mapping[str, Any], frame: Frame | None) -> list[int]:
    counts, size = found.get("counts"), found.get("size")
    try:
        runs = run_lengths.from_text(counts) if isinstance(counts, str) else counts
    except (ValueError, OverflowError) as error:
        raise FaultError(kinds.RUN_LENGTHS, f"has unreadable run lengths: {error}") from error
    if not (_are_whole(runs) and _are_whole(size) and len(size) == 2):
        reason = f"{short(runs)} for a size of {short(size)}"
        raise FaultError(kinds.RUN_LENGTHS, f"has the run lengths {reason}")
    height, width = size
    if sum(runs) != width * height or (frame is not None and (width, height) != frame):
        reason = f"run lengths of {sum(runs)} pixels for {width} x {height}"
        image = f" in an image of {frame[0]} x {frame[1]}" if frame is not None else ""
        raise FaultError(kinds.RUN_LENGTHS, f"has {reason}{image}")
    return runs


def _are_whole(found: Any) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(
        isinstance(number, int) and abs(number) < _LONGEST for number in found
    )


def _flag(item: Mapping[str, Any], key: str) -> bool:
    value = item.get(key)
    if isinstance(value, str):
        value = _FLAGS.get(value.strip().lower(), value)
    if value is None or isinstance(value, int | float):
        return bool(value)
    raise FaultError(kinds.ENTRY, f"has {short(value)} as its {key}")


def _number(found: Any) -> float | None:
    """A number, or a text that is one; ``None`` for anything else."""
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        return float(found)
    except (ValueError, OverflowError):
        return None


def _numbers(found: Any, key: str, count: int | None = None) -> list[float]:
    """A list of finite numbers; of a box also others, which its own check tells.

    Raises:
        FaultError: it is something else.
    """
    numbers = [_number(value) for value in found] if isinstance(found, list) else [None]
    known = [value for value in numbers if value is not None]
    if len(known) < len(numbers) or count not in (None, len(known)):
        kind = kinds.NO_MASK if key == "segmentation" else kinds.ENTRY
        raise FaultError(kind, f"has {short(found)} as its {key}")
    if key == "segmentation" and not all(map(math.isfinite, known)):
        raise FaultError(kinds.NO_MASK, "has a segmentation that is not finite")
    return known
