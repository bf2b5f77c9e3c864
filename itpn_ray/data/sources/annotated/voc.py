"""One label file of Pascal VOC: XML with the image's size and a box an object.

Boxes count pixels from 1 to the last one, so the first corner moves by one
(as in detectron2's reader); ``difficult`` objects are not to be counted, as crowds are.
"""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.sources.annotated.coco_entries import Frame
from itpn_ray.data.sources.annotated.label_file import Label, LabelFile
from itpn_ray.data.sources.annotated.safe_xml import parse_xml

ROOT = "annotation"


def parse_voc(data: bytes, frame: Frame | None) -> LabelFile:
    """Read a label file; see the module.

    Args:
        data: its bytes.
        frame: not looked at: the file tells it.

    Raises:
        ValueError: it is no XML, or another kind of it.
    """
    del frame
    root = parse_xml(data)
    if root.tag != ROOT:
        raise ValueError(f"is XML of {root.tag!r}, not of {ROOT!r}")
    labels = tuple(_read(f"object {n}", found) for n, found in enumerate(root.iter("object"), 1))
    return LabelFile(frame=_frame(root), labels=labels)


def _frame(root: Element) -> Frame | None:
    """The size of the image; some programs leave it out, or at 0."""
    sides = (root.findtext(f"size/{side}", "0").strip() for side in ("width", "height"))
    width, height = (int(side) if side.isdecimal() else 0 for side in sides)
    return (width, height) if width and height else None


def _read(entry: str, found: Element) -> Label:
    try:
        return Label(entry=entry, fields=_fields(found))
    except FaultError as fault:
        return Label(entry=entry, fields=fault)


def _fields(found: Element) -> dict[str, Any]:
    x1, y1, x2, y2 = (_side(found, name) for name in ("xmin", "ymin", "xmax", "ymax"))
    return {
        "category_id": found.findtext("name"),
        "bbox": [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1],
        "iscrowd": found.findtext("difficult"),
    }


def _side(found: Element, name: str) -> float:
    text = found.findtext(f"bndbox/{name}")
    try:
        return float(text or "")
    except ValueError as error:
        raise FaultError(kinds.ENTRY, f"has {text!r} as its {name}") from error
