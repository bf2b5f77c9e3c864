"""Masks as run lengths, in COCO's form: lengths of 0, 1, 0, ... down the columns of the image.

The text form packs each length in characters of 5 bits, from the fourth on as the difference to the
length two before, as COCO's own tools do.

Shapes: masks are (H, W) bool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Digits start at "0"; bit 5 says that more follow, bit 4 of the last one is the sign.
_OFFSET = 48
_MORE = 0x20
_SIGN = 0x10


def decode(runs: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask (height, width).

    Raises:
        ValueError: the lengths do not add up to the image.
    """
    lengths = np.asarray(runs, dtype=np.int64)
    if lengths.sum() != height * width or (lengths < 0).any():
        raise ValueError(f"run lengths of {lengths.sum()} pixels for {width} x {height}")
    # Runs alternate and begin with unmarked pixels.
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T  # columns first


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """The run lengths of a mask (H, W)."""
    flat = mask.T.reshape(-1)  # columns first
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    # The places where a run begins, and the end of the last one.
    edges = np.concatenate([[0], changes, [len(flat)]])
    runs: list[int] = np.diff(edges).tolist()
    # COCO's runs begin with the unmarked, of which there may be none.
    return [0, *runs] if flat[0] else runs


def bounds(runs: Sequence[int], height: int) -> list[float]:
    """x1, y1, x2, y2 around what run lengths mark, in pixels; they must mark something."""
    # Ends of the marked runs, counted down the columns.
    ends = np.cumsum(np.asarray(runs, dtype=np.int64))[1::2]
    lengths = np.asarray(runs[1::2], dtype=np.int64)
    first, last = (ends - lengths)[lengths > 0], (ends - 1)[lengths > 0]  # pixels, columns first
    top, bottom = (first % height).min(), (last % height).max() + 1
    # It marks the last pixel of one column and the first of the next.
    if (first // height < last // height).any():  # a run that goes on in the next column
        top, bottom = 0, height
    return [float(first[0] // height), float(top), float(last[-1] // height + 1), float(bottom)]


def from_text(text: str) -> list[int]:
    """Run lengths from their text form.

    Raises:
        ValueError: the text ends in the middle of a length.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - _OFFSET
        value |= (code & (_MORE - 1)) << shift
        shift += 5
        if code & _MORE:
            continue
        if code & _SIGN:
            # The sign bit of the last digit extends to all higher bits, as in two's complement.
            value -= 1 << shift
        # The first three lengths are written as they are, as COCO's tools have it.
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the run lengths end in the middle of one")
    return runs


def to_text(runs: Sequence[int]) -> str:
    """The text form of run lengths."""
    text = []
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        more = True
        while more:
            code = value & (_MORE - 1)
            value >>= 5
            # Done when what is left is all sign: 0, or -1 where the digit's own sign bit is set.
            more = value != (-1 if code & _SIGN else 0)
            text.append(chr((code | (_MORE if more else 0)) + _OFFSET))
    return "".join(text)
