"""Turned boxes in XML: DIOR-R, whose files are Pascal VOC's with corners, and HRSC2016."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import basename, splitext
from typing import Any, ClassVar
from xml.etree.ElementTree import Element

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.sources.annotated.coco_entries import Frame
from itpn_ray.data.sources.annotated.dota import labelled_parts, turned_box
from itpn_ray.data.sources.annotated.label_file import Label, LabelFile, Parse
from itpn_ray.data.sources.annotated.paired import Folder, Pair, PairedSource, Parts
from itpn_ray.data.sources.annotated.pairs import Skipped
from itpn_ray.data.sources.annotated.safe_xml import parse_xml
from itpn_ray.data.sources.annotated.voc_folder import VocSource

DIOR, HRSC = "annotation", "HRSC_Image"
"""Roots of the files."""
SHIP = "ship"
"""The one class of HRSC2016 as it is usually taken; its files have numbers of ship types."""
_CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


@dataclass(frozen=True)
class TurnedXmlSource(VocSource):
    """A label file an image; lists in ``ImageSets/`` say the splits, by the images' names alone."""

    kind: ClassVar[str] = "rotated"

    def parser(self) -> Parse:
        """See `PairedSource.parser`."""
        return parse_turned

    def divide(self, folder: Folder, pairs: Sequence[Pair]) -> tuple[Parts, Skipped]:
        """See `PairedSource.divide`."""
        listed = {name: split for (_, name), split in self._listed(folder).items()}
        if self.splits.given or not listed:
            return labelled_parts(*PairedSource.divide(self, folder, pairs))
        parts: Parts = {}
        skipped: Skipped = []
        for image, label in pairs:
            split = listed.get(splitext(basename(image))[0])
            if split is None:
                skipped.append((image, "in no list of ImageSets"))
            else:
                parts.setdefault(split, []).append((image, label))
        return labelled_parts(parts, skipped)


def parse_turned(data: bytes, frame: Frame | None) -> LabelFile:
    """Read a label file of either data set.

    Args:
        data: its bytes.
        frame: not looked at: corners are in pixels.

    Raises:
        ValueError: it is no XML, or another kind of it.
    """
    del frame
    root = parse_xml(data)
    found = list(root.iter("HRSC_Object" if root.tag == HRSC else "object"))
    if root.tag not in (DIOR, HRSC) or (
        root.tag == DIOR and found and all(each.find("robndbox") is None for each in found)
    ):
        raise ValueError(f"is XML of {root.tag!r} without turned boxes")
    read = _hrsc if root.tag == HRSC else _dior
    labels = []
    for number, each in enumerate(found, 1):
        try:
            fields: dict[str, Any] | FaultError = read(each)
        except FaultError as fault:
            fields = fault
        labels.append(Label(entry=f"object {number}", fields=fields))
    return LabelFile(frame=None, labels=tuple(labels))


def holds_turned(data: bytes) -> bool:
    """Whether a file has a turned box."""
    try:
        return bool(parse_turned(data, None).labels)
    except ValueError:
        return False


def _dior(found: Element) -> dict[str, Any]:
    outline = [_number(found, f"robndbox/{axis}_{at}") for at in _CORNERS for axis in "xy"]
    return turned_box(found.findtext("name"), outline, _difficult(found))


def _hrsc(found: Element) -> dict[str, Any]:
    x, y, width, height, angle = (
        _number(found, f"mbox_{name}") for name in ("cx", "cy", "w", "h", "ang")
    )
    # Halved here, as `steps` are whole sides.
    cos, sin = math.cos(angle) / 2, math.sin(angle) / 2
    # Clockwise as images are shown, from the upper left corner.
    steps = [(-width, -height), (width, -height), (width, height), (-width, height)]
    corners = [(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in steps]
    return turned_box(SHIP, [value for corner in corners for value in corner], _difficult(found))


def _difficult(found: Element) -> str:
    return (found.findtext("difficult") or "0").strip()


def _number(found: Element, path: str) -> float:
    text = found.findtext(path)
    try:
        number = float(text or "")
    except ValueError as error:
        raise FaultError(kinds.ENTRY, f"has {text!r} as its {path}") from error
    if not math.isfinite(number):
        raise FaultError(kinds.BOX_NOT_FINITE, f"has {text!r} as its {path}")
    return number
