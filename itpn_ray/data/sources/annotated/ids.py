"""Ids of annotation files: kept where they serve, made anew where they do not.

COCO asks for whole numbers; tools write text, fractions and hashes too. An id is only needed to
tell entries apart, so whatever is no small whole number gets a new one, from ``FRESH`` on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from reprlib import repr as short
from typing import Any, TypeGuard

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds

FRESH = 2**52
"""The first new number: above any that a file counts to, and exact in every JSON reader."""

Id = int | str
"""A whole number below ``FRESH``, or the text of any other id."""


def read_id(item: Mapping[str, Any], key: str) -> Id:
    """An id of an entry; 7, 7.0 and "7" are the same.

    Raises:
        FaultError: it is missing, or no id.
    """
    value = item.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip() if isinstance(value, int | float) or is_text(value) else ""
    if isinstance(value, bool) or not text or (isinstance(value, float) and math.isnan(value)):
        raise FaultError(kinds.ENTRY, f"has {short(value)} as its {key}")
    digits = text.removeprefix("-").removesuffix(".0")
    # FRESH has 16 digits: longer texts need not be converted.
    if digits.isascii() and digits.isdigit() and len(digits) < 17:
        number = int(digits)
        # Leading zeros make another id: 007 stays a text.
        if str(number) == digits and number < FRESH:
            return -number if text.startswith("-") else number
    return text


def is_text(value: object) -> TypeGuard[str]:
    """Whether something is text that can be stored: JSON and YAML can name halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


class IdNumbers:
    """The number of each id: its own, or a new one for an id that is a text."""

    def __init__(self) -> None:
        self._fresh: dict[str, int] = {}

    def add(self, found: Id) -> int:
        """The number of an id, which may be new."""
        if isinstance(found, int):
            return found
        return self._fresh.setdefault(found, FRESH + len(self._fresh))

    def find(self, found: Id) -> int | None:
        """The number of an id that has been added; any whole number may have been."""
        return found if isinstance(found, int) else self._fresh.get(found)


def object_entry(number: int) -> str:
    """How an object is named by its number: as its file does, or by its place there."""
    if number < FRESH:
        return f"annotation {number}"
    return f"annotation at place {number - FRESH + 1}"
