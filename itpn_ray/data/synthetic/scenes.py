"""Draws images with several things, each with the outline of what can be seen of it.

Things stand apart from one another; bars hide a part of some, which splits their outlines, and the
image's edge cuts others. Now and then a group of small things is annotated as one crowd.

Shapes: outlines (n, 2) float64 (x, y) in pixels; masks (H, W) bool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from itpn_ray.data.annotations.polygons import clip
from itpn_ray.data.synthetic import drawing
from itpn_ray.data.synthetic.drawing import Array, Bar, Thing

_TRIES = 20
# Square pixels of a part too small to be annotated.
_LEAST_AREA = 6.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the things of a scene are, and how far apart.

    Attributes:
        low: the least radius, over the image's shorter side.
        high: the largest radius, over the image's shorter side.
        apart: the least distance of two centres, over the sum of their radii.
    """

    low: float
    high: float
    apart: float


SMALL = Sizes(low=0.07, high=0.22, apart=1.4)
"""For boxes: several things in most images, none of which hides another."""
LARGE = Sizes(low=0.2, high=0.4, apart=1.0)
"""For masks: small things would fill a tenth of the pixels, and ground everywhere score well."""


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """An annotated thing: its class and visible parts, or the mask of a crowd.

    Attributes:
        label: index into ``drawing.CLASSES``.
        parts: outlines of what can be seen of it.
        bars: outlines of what hides it, and perhaps things that were drawn before it.
        crowd: the mask of a crowd.
    """

    label: int
    parts: tuple[Array, ...]
    bars: tuple[Array, ...] = ()
    crowd: NDArray[np.bool_] | None = None


def draw_scene(
    rng: np.random.Generator, width: int, height: int, sizes: Sizes = SMALL
) -> tuple[Array, list[SceneObject]]:
    """An image (height, width, 3) in 0..255 with up to seven things, and these."""
    canvas = drawing.ground(rng, width, height)
    short = min(width, height)
    placed: list[Thing] = []
    objects: list[SceneObject] = []
    if rng.random() < 0.2:
        hub = drawing.place(rng, _any(rng), width, height, short * 0.25, margin=1.0)
        placed.append(hub)
        objects.append(_draw_crowd(rng, canvas, hub))
    for _ in range(int(rng.integers(0, 8))):
        radius = short * rng.uniform(sizes.low, sizes.high)
        thing = _place_apart(rng, placed, width, height, radius, sizes.apart)
        if thing is None:
            continue
        placed.append(thing)
        drawing.paint_thing(rng, canvas, thing)
        bars = [drawing.bar(rng, thing) for _ in range(int(rng.random() < 0.3))]
        strips = tuple(drawing.bar_outline(hidden, thing) for hidden in bars)
        for strip in strips:
            drawing.paint(canvas, strip, drawing.colour(rng))
        parts = tuple(visible_parts(thing.outline, bars, width, height))
        if parts:
            objects.append(SceneObject(label=thing.label, parts=parts, bars=strips))
    return drawing.finish(rng, canvas), objects


def visible_parts(outline: Array, bars: list[Bar], width: int, height: int) -> list[Array]:
    """The parts of an outline inside the image and beside the bars, tiny ones left out."""
    sides = [((1.0, 0.0), width), ((-1.0, 0.0), 0), ((0.0, 1.0), height), ((0.0, -1.0), 0)]
    part = outline
    for normal, limit in sides:
        part = clip(part, np.array(normal), limit)
    parts = [part]
    for hidden in bars:
        # A bar leaves of each part what lies on either side of it.
        below = [clip(part, hidden.normal, hidden.low) for part in parts]
        above = [clip(part, -hidden.normal, -hidden.high) for part in parts]
        parts = below + above
    return [part for part in parts if len(part) > 2 and area(part) >= _LEAST_AREA]


def area(outline: Array) -> float:
    """Square pixels inside a polygon."""
    x, y = outline[:, 0], outline[:, 1]
    # The shoelace formula.
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _any(rng: np.random.Generator) -> int:
    return int(rng.integers(len(drawing.CLASSES)))


def _place_apart(
    rng: np.random.Generator,
    placed: list[Thing],
    width: int,
    height: int,
    radius: float,
    apart: float,
) -> Thing | None:
    """A thing that keeps away from the others; ``None`` if no place was found."""
    for _ in range(_TRIES):
        thing = drawing.place(rng, _any(rng), width, height, radius)
        if all(
            np.hypot(*np.subtract(thing.centre, other.centre))
            > (thing.radius + other.radius) * apart
            for other in placed
        ):
            return thing
    return None


def _draw_crowd(rng: np.random.Generator, canvas: Array, hub: Thing) -> SceneObject:
    """A group of small things of one class around a place."""
    height, width = canvas.shape[:2]
    mask = Image.new("1", (width, height))
    for _ in range(int(rng.integers(6, 14))):
        small = drawing.place(rng, hub.label, width, height, hub.radius * 0.22)
        # The square root spreads the places evenly over the disc.
        turn, reach = rng.uniform(0, 2 * np.pi), hub.radius * 0.75 * np.sqrt(rng.random())
        centre = np.array(hub.centre) + reach * np.array([np.cos(turn), np.sin(turn)])
        moved = Thing(
            label=hub.label,
            outline=small.outline - small.centre + centre,
            centre=(float(centre[0]), float(centre[1])),
            radius=small.radius,
        )
        drawing.paint_thing(rng, canvas, moved)
        corners = [tuple(corner) for corner in moved.outline.tolist()]
        ImageDraw.Draw(mask).polygon(corners, fill=1)
    return SceneObject(label=hub.label, parts=(), crowd=np.asarray(mask))
