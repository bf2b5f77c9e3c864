"""What one file of labels says of its image, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.sources.annotated.coco_entries import Frame, Remark


@dataclass(frozen=True, kw_only=True)
class Label:
    """An object of a label file.

    Attributes:
        entry: where it stands in the file.
        fields: as COCO names them, ``category_id`` may be a class's name; or why there are none.
        remarks: what is odd about it.
    """

    entry: str
    fields: Mapping[str, Any] | FaultError
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A file of labels: the size of its image, where it says so, and the objects."""

    frame: Frame | None
    labels: tuple[Label, ...]


Parse = Callable[[bytes, Frame | None], LabelFile]
"""Reads a label file of an image of a size; a ValueError says why it cannot be read."""


def unread(reason: str) -> LabelFile:
    """A label file that cannot be read: one entry that says so."""
    fault = FaultError(kinds.ENTRY, f"cannot be read: {reason}")
    return LabelFile(frame=None, labels=(Label(entry="", fields=fault),))
