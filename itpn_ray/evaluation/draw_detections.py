"""Images of what a detector found, beside what is annotated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from itpn_ray.data.annotations.objects import Objects
from itpn_ray.data.annotations.tiles import TileObjects
from itpn_ray.data.synthetic.palette import Colour, class_colour
from itpn_ray.data.transforms.object_masks import part_mask
from itpn_ray.evaluation.pasting import paste
from itpn_ray.models.rotated.boxes import TURNED, corners_of, hulls_of

if TYPE_CHECKING:
    from itpn_ray.models.detection.base import Detections

MIN_SCORE = 0.3  # of the detections that are drawn
_MOST = 40  # detections drawn in an image
_HEIGHT, _WIDEST = 300, 460  # pixels of a drawn image
_ROW = 1880  # widest row, pixels
_GAP, _BETWEEN, _CAPTION = 4, 20, 20
_TINT = 0.4
_TEXT = 12


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image to draw.

    Attributes:
        image: (3, H, W) uint8.
        found: on the CPU, in pixels of the image.
        truth: its annotated objects; None where there are none to show.
    """

    image: Tensor
    found: Detections
    truth: Objects | None = None


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """A thing in a drawn image: box in its pixels, mask (h, w) of 0 and 1.

    A turned one has the corners of its box, x, y, ..., around which ``box`` lies.
    """

    box: tuple[float, float, float, float]
    text: str
    colour: Colour
    mask: NDArray[np.uint8] | None
    corners: list[float] | None = None


def detection_grid(scenes: Sequence[Scene], names: Sequence[str], path: str | Path) -> Path:
    """Write images with boxes, class names, scores and masks as one PNG.

    Each image is followed by itself with the annotations, where it has them.

    Args:
        scenes: the images, at least one.
        names: of the classes.
        path: the PNG to write.

    Returns:
        The path written.
    """
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    _stack([_panels(scene, names) for scene in scenes]).save(out, "PNG")
    return out


def draw_image(
    scene: Scene, names: Sequence[str], side: int, *, min_score: float = MIN_SCORE
) -> Image.Image:
    """One image with what was found in it, at most ``side`` pixels wide and high."""
    size = _scaled(scene.image, side, side)
    return _drawn(scene, size, names, truth=False, min_score=min_score)


def _panels(scene: Scene, names: Sequence[str]) -> Image.Image:
    """What was found, and beside it what is annotated, each under its caption."""
    size = _scaled(scene.image, _WIDEST, _HEIGHT)
    panels = [("found", _drawn(scene, size, names, truth=False))]
    if scene.truth is not None:
        panels.append(("annotated", _drawn(scene, size, names, truth=True)))
    width = size[0] * len(panels) + _GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, _CAPTION + size[1]), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (caption, panel) in enumerate(panels):
        left = number * (size[0] + _GAP)
        pen.text((left, 2), caption, fill=(90, 96, 105), font=ImageFont.load_default(_TEXT))
        sheet.paste(panel, (left, _CAPTION))
    return sheet


def _scaled(image: Tensor, widest: int, highest: int) -> tuple[int, int]:
    """(width, height) of an image within limits."""
    _, height, width = image.shape
    scale = min(widest / width, highest / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _drawn(
    scene: Scene,
    size: tuple[int, int],
    names: Sequence[str],
    *,
    truth: bool,
    min_score: float = MIN_SCORE,
) -> Image.Image:
    pixels = Image.fromarray(scene.image.permute(1, 2, 0).contiguous().numpy()).resize(size)
    scale = size[0] / scene.image.shape[2]
    if truth and scene.truth is not None:
        marks = list(_annotated(scene.truth, names, scale, size))
    else:
        marks = list(_found(scene.found, names, scale, size, min_score))
    for mark in marks:
        if mark.mask is not None:
            _tint(pixels, mark)
    pen = ImageDraw.Draw(pixels)
    for mark in marks:
        _outline(pen, mark)
    for mark in marks:
        _name(pen, mark, size)
    return pixels


def _outline(pen: ImageDraw.ImageDraw, mark: _Mark) -> None:
    """Draw the box of a mark."""
    if mark.corners is not None:
        pen.line([*mark.corners, *mark.corners[:2]], fill=mark.colour, width=2, joint="curve")
        return
    x1, y1, x2, y2 = mark.box
    # Right and lower edges lie beyond the last pixels of a box.
    edges = x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)
    pen.rectangle(edges, outline=mark.colour, width=2)


def _found(
    found: Detections,
    names: Sequence[str],
    scale: float,
    size: tuple[int, int],
    min_score: float,
) -> Iterator[_Mark]:
    """The surest detections, the surest last: it is drawn over the others."""
    order = found.scores.argsort(descending=True, stable=True)[:_MOST]
    order = order[found.scores[order] >= min_score].flip(0)
    boxes = found.boxes[order]
    corners: Sequence[list[float] | None] = [None] * len(order)
    if boxes.shape[1] == TURNED:
        corners = (corners_of(boxes).flatten(1) * scale).tolist()
        boxes = hulls_of(boxes)
    boxes = boxes * scale
    masks: Sequence[NDArray[np.uint8] | None] = [None] * len(order)
    if found.masks is not None:
        masks = list(paste(found.masks[order], boxes, size[1], size[0]))
    scores, labels = found.scores[order].tolist(), found.labels[order].tolist()
    marks = zip(boxes.tolist(), scores, labels, masks, corners, strict=True)
    for box, score, label, mask, outline in marks:
        text = f"{names[label]} {score:.2f}"
        colour = class_colour(label)
        yield _Mark(box=box, text=text, colour=colour, mask=mask, corners=outline)


def _annotated(
    truth: Objects, names: Sequence[str], scale: float, size: tuple[int, int]
) -> Iterator[_Mark]:
    """All objects, large ones first: small ones are drawn over them."""
    whole = np.array([0.0, 0.0, truth.size[1], truth.size[0]])
    for number in np.argsort(-truth.areas, kind="stable").tolist():
        label = int(truth.classes[number])
        # A word for what is not learned from.
        corners, mask, left_out = None, None, "crowd"
        if isinstance(truth, TileObjects):
            left_out = "difficult"
            corners = (truth.corners[number] * scale).reshape(-1).tolist()
        else:
            mask = part_mask(truth, number, whole, size[1], size[0]).astype(np.uint8)
        yield _Mark(
            box=(truth.boxes[number] * scale).tolist(),
            text=names[label] + (f" ({left_out})" if truth.crowds[number] else ""),
            colour=class_colour(label),
            mask=mask,
            corners=corners,
        )


def _tint(pixels: Image.Image, mark: _Mark) -> None:
    """Colour a mask, its edge more strongly, in place."""
    assert mark.mask is not None
    inside = Image.fromarray(np.ascontiguousarray(mark.mask) * 255)
    # One pixel smaller on all sides: what is left out is the edge.
    core = inside.filter(ImageFilter.MinFilter(3))
    strength = np.where(np.asarray(core) > 0, _TINT, 0.9) * (np.asarray(inside) > 0)
    pixels.paste(mark.colour, mask=Image.fromarray((strength * 255).astype(np.uint8)))


def _name(pen: ImageDraw.ImageDraw, mark: _Mark, size: tuple[int, int]) -> None:
    """Write a mark's text on a tag above its box, or where there is no room inside it."""
    font = ImageFont.load_default(_TEXT)
    left, top, right, bottom = pen.textbbox((0, 0), mark.text, font=font)
    width, height = right - left + 6, bottom - top + 5
    x1, y1 = round(mark.box[0]), round(mark.box[1])
    x = max(0, min(x1, size[0] - width))
    y = max(0, min(y1 - height if y1 >= height else y1, size[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=mark.colour)
    # The luma of the colour; above the middle, black reads better.
    light = np.dot(mark.colour, (0.299, 0.587, 0.114)) > 130
    pen.text((x + 3 - left, y + 2 - top), mark.text, fill="black" if light else "white", font=font)


def _stack(cells: Sequence[Image.Image]) -> Image.Image:
    """Cells in rows, as many to a row as fit, on white."""
    rows: list[list[Image.Image]] = [[]]
    for cell in cells:
        if rows[-1] and _width(rows[-1]) + _BETWEEN + cell.width > _ROW:
            rows.append([])
        rows[-1].append(cell)
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new(
        "RGB",
        (
            max(_width(row) for row in rows) + 2 * _BETWEEN,
            sum(heights) + _BETWEEN * (len(rows) + 1),
        ),
        "white",
    )
    y = _BETWEEN
    for row, height in zip(rows, heights, strict=True):
        x = _BETWEEN
        for cell in row:
            sheet.paste(cell, (x, y))
            x += cell.width + _BETWEEN
        y += height + _BETWEEN
    return sheet


def _width(row: Sequence[Image.Image]) -> int:
    return sum(cell.width for cell in row) + _BETWEEN * (len(row) - 1)
