"""Draws images with turned things from above, as DOTA has them: long ones, each at any angle.

Shapes: corners (4, 2) float64 (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itpn_ray.data.synthetic import drawing
from itpn_ray.data.synthetic.drawing import Array, Thing

HEAD = ("imagesource:itpn-ray", "gsd:null")
"""The first lines of a label file."""
_APART = 1.1
_TRIES = 20
_MOST = 12
_DIFFICULT = 9.0
"""Pixels from the centre to the far end below which a thing is annotated as difficult."""


@dataclass(frozen=True, kw_only=True)
class TurnedThing:
    """An annotated thing.

    Attributes:
        thing: as it is drawn.
        corners: of the smallest box around it along its own axes.
    """

    thing: Thing
    corners: Array

    @property
    def difficult(self) -> bool:
        """Whether it is too small to be judged by."""
        return self.thing.radius < _DIFFICULT


def draw_turned(
    rng: np.random.Generator, width: int, height: int
) -> tuple[Array, list[TurnedThing]]:
    """An image (height, width, 3) in 0..255 with turned things that keep apart, and these."""
    canvas = drawing.ground(rng, width, height)
    placed: list[TurnedThing] = []
    for _ in range(int(rng.integers(1, _MOST + 1))):
        found = _place(rng, placed, width, height, min(width, height) * rng.uniform(0.06, 0.2))
        if found is not None:
            placed.append(found)
            drawing.paint_thing(rng, canvas, found.thing)
    return drawing.finish(rng, canvas), placed


def label_file(things: Sequence[TurnedThing]) -> str:
    """A label file as DOTA has it: a head, then a line a thing."""
    lines = [
        " ".join(
            [
                *(f"{value:.1f}" for value in one.corners.reshape(-1)),
                drawing.CLASSES[one.thing.label],
                str(int(one.difficult)),
            ]
        )
        for one in things
    ]
    return "\n".join([*HEAD, *lines]) + "\n"


def _place(
    rng: np.random.Generator,
    placed: Sequence[TurnedThing],
    width: int,
    height: int,
    radius: float,
) -> TurnedThing | None:
    """A thing that keeps away from the others; ``None`` if no place was found."""
    for _ in range(_TRIES):
        found = _thing(rng, width, height, radius)
        if all(
            np.hypot(*np.subtract(found.thing.centre, other.thing.centre))
            > (radius + other.thing.radius) * _APART
            for other in placed
        ):
            return found
    return None


def _thing(rng: np.random.Generator, width: int, height: int, radius: float) -> TurnedThing:
    """A thing of any class, one and a half to three times as long as it is wide."""
    label = int(rng.integers(len(drawing.CLASSES)))
    outline = drawing.unit_outline(drawing.CLASSES[label].split("-")[0])
    outline = outline * [1.0, 1 / rng.uniform(1.5, 3.0)] * radius
    (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    return TurnedThing(
        thing=Thing(label=label, outline=outline @ rotation + [x, y], centre=(x, y), radius=radius),
        corners=corners @ rotation + [x, y],
    )
