"""One label file of YOLO: a line an object, in shares of the image's sides.

- ``class x y width height``: the box's centre and sides; a confidence may follow.
- ``class x y x y x y ...``: the corners of an outline, the box is around it. Four corners are also
  how oriented boxes are written, so they are reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.sources.annotated.coco_entries import Frame, Remark
from itpn_ray.data.sources.annotated.label_file import Label, LabelFile
from itpn_ray.data.sources.text import decode

_BOX = (4, 5)  # numbers of a box behind the class
_ORIENTED = 8
_LEAST_OUTLINE = 6
# Beyond this they are pixels, not shares.
_LARGEST_SHARE = 2.0


def parse_yolo(data: bytes, frame: Frame | None) -> LabelFile:
    """Read a label file; see the module.

    Args:
        data: its bytes.
        frame: of its image. Where that is not known the image cannot be used, nor its labels.

    Raises:
        ValueError: it is no text.
    """
    lines = decode(data).splitlines() if frame is not None else []
    labels = tuple(
        # Some programs separate the numbers by commas.
        _read_line(f"line {number}", line.replace(",", " ").split(), frame)
        for number, line in enumerate(lines, 1)
        if frame is not None and line.strip()
    )
    return LabelFile(frame=frame, labels=labels)


def _read_line(entry: str, words: Sequence[str], frame: Frame) -> Label:
    try:
        shares = [float(word) for word in words[1:]]
        fields, remarks = _fields(shares, frame)
    except ValueError:
        fault = FaultError(kinds.ENTRY, f"is no class with numbers: {' '.join(words)[:60]!r}")
        return Label(entry=entry, fields=fault)
    except FaultError as fault:
        return Label(entry=entry, fields=fault)
    return Label(entry=entry, fields={"category_id": words[0], **fields}, remarks=remarks)


def _fields(
    shares: Sequence[float], frame: Frame
) -> tuple[dict[str, list[float] | list[list[float]]], tuple[Remark, ...]]:
    if any(not math.isfinite(share) for share in shares):
        raise FaultError(kinds.BOX_NOT_FINITE, "has coordinates that are not finite")
    is_box = len(shares) in _BOX
    # A confidence behind the box is no share.
    outside = [share for share in shares[: 4 if is_box else None] if abs(share) > _LARGEST_SHARE]
    if outside:
        reason = f"has {outside[0]:g} where a share of the image's side belongs, 0 to 1"
        raise FaultError(kinds.ENTRY, reason)
    if is_box:
        # Even places are x and widths, odd ones y and heights.
        x, y, width, height = (v * frame[n % 2] for n, v in enumerate(shares[:4]))
        return {"bbox": [x - width / 2, y - height / 2, width, height]}, ()
    if len(shares) < _LEAST_OUTLINE or len(shares) % 2:
        raise FaultError(kinds.ENTRY, f"has {len(shares)} numbers behind its class")
    outline = [value * frame[n % 2] for n, value in enumerate(shares)]
    reason = "has four corners, which are read as its outline"
    remarks = ((kinds.CORNERS, reason),) if len(shares) == _ORIENTED else ()
    return {"segmentation": [outline]}, remarks
