"""DOTA: ``images/P0001.png`` with ``labelTxt/P0001.txt``, a line an object.

``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``, corners in pixels, as versions 1.0 and 1.5 have it. The
first lines may be ``imagesource:...`` and ``gsd:...``. Difficult objects (1; 2 where a tile has cut
them) are not to be counted, as crowds are; a line that does not say is of no difficult one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import dirname
from typing import Any, ClassVar

from itpn_ray.data.annotations.faults import FaultError, has_area
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.sources.annotated.coco_entries import Frame
from itpn_ray.data.sources.annotated.label_file import Label, LabelFile, Parse
from itpn_ray.data.sources.annotated.paired import Folder, NamedSource, Pair, Parts
from itpn_ray.data.sources.annotated.pairs import Skipped
from itpn_ray.data.sources.text import decode

_HEADS = ("imagesource:", "gsd:")
_CORNERS = 8
_DIFFICULT = {"0": False, "1": True, "2": True}


@dataclass(frozen=True)
class DotaSource(NamedSource):
    """A data set in DOTA's layout; splits are those that folders name."""

    kind: ClassVar[str] = "rotated"

    def is_label(self, path: str) -> bool:
        """See `PairedSource.is_label`."""
        return path.lower().endswith(".txt")

    def parser(self) -> Parse:
        """See `PairedSource.parser`."""
        return parse_dota

    def divide(self, folder: Folder, pairs: Sequence[Pair]) -> tuple[Parts, Skipped]:
        """See `PairedSource.divide`; DOTA's test images come without labels and are left out."""
        return labelled_parts(*super().divide(folder, pairs))


def labelled_parts(parts: Parts, skipped: Skipped) -> tuple[Parts, Skipped]:
    """Without the splits none of whose images has labels, whose folders are told."""
    labelled = {split: pairs for split, pairs in parts.items() if any(label for _, label in pairs)}
    bare = [image for split in parts.keys() - labelled.keys() for image, _ in parts[split]]
    folders = sorted({dirname(image) for image in bare})
    return labelled, [*skipped, *((name, "no image in it has labels") for name in folders)]


def parse_dota(data: bytes, frame: Frame | None) -> LabelFile:
    """Read a label file; see the module.

    Args:
        data: its bytes.
        frame: not looked at: lines are in pixels.

    Raises:
        ValueError: it is no text.
    """
    del frame
    labels = tuple(
        _read_line(f"line {number}", line.split())
        for number, line in enumerate(decode(data).splitlines(), 1)
        if line.strip() and not line.strip().lower().startswith(_HEADS)
    )
    return LabelFile(frame=None, labels=labels)


def holds_dota(data: bytes) -> bool:
    """Whether a text has a line with eight numbers and a name."""
    try:
        labels = parse_dota(data, None).labels
    except ValueError:
        return False
    # A name, not a number: YOLO's outlines are lines of nine numbers, too.
    return any(
        not isinstance(label.fields, FaultError) and _numbers([label.fields["category_id"]]) is None
        for label in labels
    )


def turned_box(name: Any, outline: Sequence[float], difficult: str) -> dict[str, Any]:
    """The fields of an object from its corners x, y, x, y, ... in pixels.

    Raises:
        FaultError: it cannot be used.
    """
    if not all(map(math.isfinite, outline)):
        raise FaultError(kinds.BOX_NOT_FINITE, "has corners that are not finite")
    if not has_area(outline):
        corners = " ".join(f"{value:g}" for value in outline)
        raise FaultError(kinds.BOX_WITHOUT_AREA, f"has a box without area: {corners}")
    if difficult not in _DIFFICULT:
        told = f"has {difficult[:60]!r} as its difficulty, which is 0 or 1"
        raise FaultError(kinds.ENTRY, told)
    x, y = outline[0::2], outline[1::2]
    # COCO's fields, so that the same checks serve all formats.
    return {
        "category_id": name,
        "bbox": [min(x), min(y), max(x) - min(x), max(y) - min(y)],
        "segmentation": [list(outline)],
        "iscrowd": _DIFFICULT[difficult],
    }


def _read_line(entry: str, words: Sequence[str]) -> Label:
    outline = _numbers(words[:_CORNERS])
    if outline is None or len(words) not in (_CORNERS + 1, _CORNERS + 2):
        told = f"is no line of 8 coordinates, class and difficulty: {' '.join(words)[:60]!r}"
        return Label(entry=entry, fields=FaultError(kinds.ENTRY, told))
    try:
        difficult = words[_CORNERS + 1] if len(words) > _CORNERS + 1 else "0"
        return Label(entry=entry, fields=turned_box(words[_CORNERS], outline, difficult))
    except FaultError as fault:
        return Label(entry=entry, fields=fault)


def _numbers(words: Sequence[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None
