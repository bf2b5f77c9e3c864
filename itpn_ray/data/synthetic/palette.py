"""Colours that tell classes apart."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]


def class_colour(label: int) -> Colour:
    """A colour of its own for each class, R, G, B in 0..255: hues a golden angle apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
