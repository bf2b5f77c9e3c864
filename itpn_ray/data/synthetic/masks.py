"""Masks of drawn scenes, as ADE20K's files have them: 0 is ignored, 1 the first class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from itpn_ray.data.synthetic.scenes import SceneObject

GROUND = "ground"
"""The first class: what is none of the things. Those of `drawing.CLASSES` follow."""


def draw_mask(objects: Sequence[SceneObject], height: int, width: int) -> NDArray[np.uint8]:
    """The value of each pixel of a scene, (height, width).

    The gaps between the things of a crowd belong to no class: they are ignored.
    """
    mask = Image.new("L", (width, height), 1)
    pen = ImageDraw.Draw(mask)
    for thing in objects:
        if thing.crowd is not None:
            rows, columns = (np.flatnonzero(thing.crowd.any(axis)) for axis in (1, 0))
            pen.rectangle((columns.min(), rows.min(), columns.max(), rows.max()), fill=0)
            pen.bitmap((0, 0), Image.fromarray(thing.crowd), fill=thing.label + 2)
        # Bars may hide things that were drawn before; the parts of their own leave room for them.
        for outline, value in (
            *((strip, 1) for strip in thing.bars),
            *((part, thing.label + 2) for part in thing.parts),
        ):
            # Outlines count from the corners of pixels, Pillow from their centres.
            pen.polygon([(x - 0.5, y - 0.5) for x, y in outline.tolist()], fill=value)
    return np.array(mask)
