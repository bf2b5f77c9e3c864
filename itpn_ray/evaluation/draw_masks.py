"""Images with the classes of their pixels laid over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from itpn_ray.data.synthetic.palette import class_colour

_SHARE = 0.55  # of the colour in an overlay
_LINE, _TEXT, _MARGIN = 18, 13, 5
_MOST_NAMED = 12
_TILE = 320  # longest side of an image in a grid, pixels


@dataclass(frozen=True, kw_only=True)
class MaskedImage:
    """An image (3, H, W) uint8 with masks (H, W) of integers: found, and true if known."""

    image: Tensor
    found: Tensor
    truth: Tensor | None = None


def overlay(image: Tensor, mask: Tensor) -> Image.Image:
    """An image (3, H, W) uint8 tinted by its mask (H, W); pixels of class -1 stay grey."""
    pixels = image.permute(1, 2, 0).cpu().numpy().astype(np.float32)
    labels = mask.cpu().numpy()
    tint = _colours(labels)
    grey = pixels.mean(-1, keepdims=True)
    seen = np.where(labels[..., None] < 0, grey, (1 - _SHARE) * pixels + _SHARE * tint)
    return Image.fromarray(seen.astype(np.uint8))


def draw_mask(image: Tensor, mask: Tensor, classes: Sequence[str], side: int) -> Image.Image:
    """The overlay, and below it the names of its largest classes.

    Args:
        image: (3, H, W) uint8.
        mask: (H, W) integers.
        classes: names.
        side: longest side of the image as drawn, pixels.
    """
    shown = _fitted(overlay(image, mask), side)
    counts = np.bincount(mask[mask >= 0].cpu().numpy().astype(np.int64).ravel())
    # The largest classes first; those without a pixel are left out.
    labels = [n for n in np.argsort(-counts, kind="stable")[:_MOST_NAMED].tolist() if counts[n]]
    font = ImageFont.load_default(_TEXT)
    sheet = Image.new(
        "RGB", (shown.width, shown.height + _LINE * len(labels) + 2 * _MARGIN), "white"
    )
    sheet.paste(shown)
    pen = ImageDraw.Draw(sheet)
    for number, label in enumerate(labels):
        top = shown.height + _MARGIN + number * _LINE
        pen.rectangle((_MARGIN, top + 2, _MARGIN + 12, top + 14), fill=class_colour(label))
        text = f"{counts[label] / counts.sum():6.1%}  {classes[label]}"
        pen.text((_MARGIN + 20, top), text, fill="black", font=font)
    return sheet


def mask_grid(scenes: Sequence[MaskedImage], path: Path) -> Path:
    """Rows of an image, what was found and what is true, written as PNG."""
    rows = []
    for scene in scenes:
        plain = Image.fromarray(scene.image.permute(1, 2, 0).contiguous().numpy())
        masks = [mask for mask in (scene.found, scene.truth) if mask is not None]
        rows.append(
            [_fitted(each, _TILE) for each in (plain, *(overlay(scene.image, m) for m in masks))]
        )
    width = max(sum(tile.width for tile in row) for row in rows)
    sheet = Image.new("RGB", (width, sum(row[0].height for row in rows)), "white")
    top = 0
    for row in rows:
        left = 0
        for tile in row:
            sheet.paste(tile, (left, top))
            left += tile.width
        top += row[0].height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _colours(labels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """The colour of each pixel's class, (H, W, 3)."""
    # One colour at least, for masks without a labelled pixel.
    table = [class_colour(label) for label in range(max(1, int(labels.max(initial=0)) + 1))]
    return np.array(table, dtype=np.float32)[labels.clip(min=0)]


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
