"""Draws the embedded images: textured shapes on cluttered grounds, partly hidden.

A class is a relation between a shape and a texture: each of five shapes occurs with two of five
textures and each texture with two shapes, so that neither alone says the class. Colours, contrast,
position, size, turn, ground, clutter and occluders are drawn independently of it.

Shapes: images are (H, W, 3) float64 in 0..255; outlines (n, 2) float64 (x, y) in pixels; masks
(H, W) float64 in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.float64]
Window = tuple[int, int, int, int]

SHAPES = ("disc", "square", "triangle", "star", "cross")
TEXTURES = ("stripes", "checks", "dots", "zigzag", "rings")
CLASSES = tuple(
    f"{shape}-{TEXTURES[(i + shift) % len(TEXTURES)]}"
    for shift in (0, 1)
    for i, shape in enumerate(SHAPES)
)
_OVERSAMPLING = 2


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One textured shape in an image.

    Attributes:
        label: index into ``CLASSES``.
        outline: (n, 2) corners in pixels.
        centre: (x, y) in pixels.
        radius: distance from the centre to the farthest corner, in pixels.
    """

    label: int
    outline: Array
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A strip that hides a part of a thing: low <= normal . (x, y) <= high, in pixels."""

    normal: Array
    low: float
    high: float


def draw_labelled(rng: np.random.Generator, label: int, width: int, height: int) -> Array:
    """One image with a main thing of the class ``label`` among smaller things and clutter.

    Returns:
        (height, width, 3) float64 in 0..255.
    """
    canvas = ground(rng, width, height)
    short = min(width, height)
    for _ in range(int(rng.integers(0, 3))):
        small = place(rng, int(rng.integers(len(CLASSES))), width, height, short * 0.08)
        paint_thing(rng, canvas, small)
    radius = short * rng.uniform(0.38, 0.5)
    main = place(rng, label, width, height, radius, margin=0.95)
    paint_thing(rng, canvas, main)
    if rng.uniform() < 0.5:
        paint(canvas, bar_outline(bar(rng, main), main), colour(rng))
    return finish(rng, canvas)


def place(
    rng: np.random.Generator,
    label: int,
    width: int,
    height: int,
    radius: float,
    margin: float = 0.5,
) -> Thing:
    """A thing of class ``label`` whose centre lies at least ``margin * radius`` from the edges."""
    # No more than half a side, or there would be no place at all.
    gap_x, gap_y = min(radius * margin, width / 2), min(radius * margin, height / 2)
    x, y = rng.uniform(gap_x, width - gap_x), rng.uniform(gap_y, height - gap_y)
    shape = CLASSES[label].split("-")[0]
    corners = unit_outline(shape) * [1.0, rng.uniform(0.85, 1.0)]
    # For rows (x, y): `corners @ matrix` turns them from x towards y.
    turn = rng.uniform(0, 2 * np.pi)
    turned = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    outline = turned * radius + [x, y]
    return Thing(label=label, outline=outline, centre=(float(x), float(y)), radius=float(radius))


def unit_outline(shape: str) -> Array:
    """Corners (n, 2) of a shape inside the unit circle.

    Raises:
        KeyError: the shape is unknown.
    """
    if shape == "cross":
        arm = 0.36
        # Corners of the arms lie on the unit circle: arm^2 + reach^2 = 1.
        reach = float(np.sqrt(1 - arm**2))
        quarter = np.array([(arm, arm), (arm, reach), (-arm, reach)])
        turns = [np.array([(c, s), (-s, c)]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return np.concatenate([quarter @ turn for turn in turns])
    corners = {"disc": 40, "square": 4, "triangle": 3, "star": 10}[shape]
    angle = np.arange(corners) * 2 * np.pi / corners
    radius = np.where(np.arange(corners) % 2 == 1, 0.42, 1.0) if shape == "star" else 1.0
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=1)


def texture(rng: np.random.Generator, name: str, thing: Thing, window: Window) -> Array:
    """A two-valued pattern over a window, in {0, 1}, its period a fraction of the thing's radius.

    Raises:
        ValueError: the texture is unknown.
    """
    left, top, right, bottom = window
    period = thing.radius * rng.uniform(0.34, 0.5)
    turn, phase = rng.uniform(0, np.pi), rng.uniform(0, 1, 2)
    x = np.arange(left, right) - thing.centre[0]
    y = (np.arange(top, bottom) - thing.centre[1])[:, None]
    u = (x * np.cos(turn) + y * np.sin(turn)) / period + phase[0]
    v = (y * np.cos(turn) - x * np.sin(turn)) / period + phase[1]
    if name == "stripes":
        return _half(u)
    if name == "checks":
        return np.abs(_half(u * 0.8) - _half(v * 0.8))
    if name == "dots":
        # Dots with a radius of 0.3 periods, in the middle of each cell.
        return ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.09).astype(np.float64)
    if name == "zigzag":
        return _half(u + np.abs(v % 1 - 0.5) * 1.2)
    if name == "rings":
        return _half(np.hypot(x, y) / period + phase[0])
    raise ValueError(f"no texture {name!r}")


def ground(rng: np.random.Generator, width: int, height: int) -> Array:
    """A background: two colours mixed by smooth noise, a faint pattern, plain clutter."""
    # float32, as Pillow has no images of float64.
    low = rng.uniform(0, 1, (int(rng.integers(2, 6)), int(rng.integers(2, 6)))).astype(np.float32)
    smooth = np.asarray(
        Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64
    )
    # Bicubic noise may overshoot 0..1; `finish` clips the colours.
    canvas = _mix(colour(rng), colour(rng), smooth)
    whole = place(rng, int(rng.integers(len(CLASSES))), width, height, min(width, height) / 2)
    name = TEXTURES[int(rng.integers(len(TEXTURES)))]
    # A faint texture of any class, so that a texture alone does not give the thing away.
    pattern = texture(rng, name, whole, (0, 0, width, height))
    canvas += (pattern[..., None] - 0.5) * rng.uniform(0, 20)
    for _ in range(int(rng.integers(2, 7))):
        radius = min(width, height) * rng.uniform(0.03, 0.12)
        blot = place(rng, int(rng.integers(len(CLASSES))), width, height, radius, margin=0.0)
        paint(canvas, blot.outline, colour(rng))
    return canvas


def paint_thing(rng: np.random.Generator, canvas: Array, thing: Thing) -> None:
    """Paint a thing with its texture in two clearly different colours, in place."""
    first, second = colour(rng), colour(rng)
    # Else the texture, half of what tells the class, could not be seen.
    while abs(_lightness(first) - _lightness(second)) < 70:
        second = colour(rng)
    name = CLASSES[thing.label].split("-")[1]
    pattern = texture(rng, name, thing, window_of(thing.outline, canvas))
    paint(canvas, thing.outline, _mix(first, second, pattern))


def paint(canvas: Array, outline: Array, fill: Array) -> None:
    """Paint a polygon over ``canvas``, in place, its edge smoothed.

    Args:
        canvas: (H, W, 3) image.
        outline: (n, 2) corners.
        fill: a colour (3,), or the image of the outline's window (`window_of`).
    """
    window = left, top, right, bottom = window_of(outline, canvas)
    if right > left and bottom > top:
        # A view of the canvas, which is painted through it.
        patch = canvas[top:bottom, left:right]
        patch += _mask(outline, window)[..., None] * (fill - patch)


def window_of(outline: Array, canvas: Array) -> Window:
    """The smallest window (left, top, right, bottom) around an outline, inside the canvas."""
    size = np.array([canvas.shape[1], canvas.shape[0]])
    low = np.clip(np.floor(outline.min(axis=0)).astype(int), 0, size)
    high = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 1, 0, size)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def bar(rng: np.random.Generator, thing: Thing) -> Bar:
    """A bar right across a thing, 12 to 22 % of its diameter wide."""
    # Half a turn is enough: both ends of a bar are alike.
    turn = rng.uniform(0, np.pi)
    normal = np.array([-np.sin(turn), np.cos(turn)])
    middle = float(normal @ thing.centre) + thing.radius * rng.uniform(-0.7, 0.7)
    half = thing.radius * rng.uniform(0.12, 0.22)
    return Bar(normal=normal, low=middle - half, high=middle + half)


def bar_outline(found: Bar, thing: Thing) -> Array:
    """The corners (4, 2) of a bar, as long as the thing is wide."""
    across = found.normal
    along = np.array([across[1], -across[0]]) * thing.radius
    foot = np.array(thing.centre) - across * float(across @ thing.centre)
    low, high = foot + across * found.low, foot + across * found.high
    return np.stack([low - along, low + along, high + along, high - along])


def finish(rng: np.random.Generator, canvas: Array) -> Array:
    """Uneven light and grain over the whole image, clipped to 0..255."""
    height, width = canvas.shape[:2]
    slope = rng.uniform(-0.25, 0.25, 2)
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    lit = canvas * (1 + slope[0] * x + slope[1] * y)[..., None]
    return np.clip(lit + rng.normal(0, rng.uniform(0, 8), (height, width, 1)), 0, 255)


def colour(rng: np.random.Generator) -> Array:
    """A random colour, (3,) in 0..255."""
    return rng.uniform(0, 255, 3)


def _half(phase: Array) -> Array:
    return (phase % 1 < 0.5).astype(np.float64)


def _mix(first: Array, second: Array, fraction: Array) -> Array:
    return first + fraction[..., None] * (second - first)


def _lightness(value: Array) -> float:
    # Luma of ITU-R BT.601.
    return float(value @ [0.299, 0.587, 0.114])


def _mask(outline: Array, window: Window) -> Array:
    left, top, right, bottom = window
    # Drawn twice as large and averaged: Pillow's polygons have hard edges.
    size = ((right - left) * _OVERSAMPLING, (bottom - top) * _OVERSAMPLING)
    large = Image.new("L", size)
    corners = [tuple(corner) for corner in ((outline - [left, top]) * _OVERSAMPLING).tolist()]
    ImageDraw.Draw(large).polygon(corners, fill=255)
    return np.asarray(large.reduce(_OVERSAMPLING), dtype=np.float64) / 255
