"""Remembers which numbers have been seen."""

from __future__ import annotations

# A page has 1,024 numbers: close ones share it, and a scattered one costs little.
_PAGE_BITS = 10


class IdBook:
    """A set of whole numbers, small where they lie close together as ids do.

    Ids in use without gaps take a bit each, scattered ones some 200 bytes.
    """

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}

    def add(self, number: int) -> bool:
        """Remember a number; whether it is new."""
        # Python's ints are unbounded, so a page of 1,024 numbers is one int used as a set of bits.
        page, bit = number >> _PAGE_BITS, 1 << (number & ((1 << _PAGE_BITS) - 1))
        found = self._pages.get(page, 0)
        self._pages[page] = found | bit
        return not found & bit
