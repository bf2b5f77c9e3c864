"""An image with what a classifier takes it for."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_LINE, _TEXT, _MARGIN = 20, 14, 6
_BAR = 120  # pixels of a bar that stands for certainty


def draw_classes(image: Tensor, named: Sequence[tuple[str, float]], side: int) -> Image.Image:
    """An image, and below it a bar for each class.

    Args:
        image: (3, H, W) uint8.
        named: class names and scores in [0, 1], the surest first.
        side: longest side of the image as drawn, pixels.
    """
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(pixels.size)
    pixels = pixels.resize(
        (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale)))
    )
    font = ImageFont.load_default(_TEXT)
    texts = [f"{score:6.1%}  {name}" for name, score in named]
    widest = max((font.getlength(text) for text in texts), default=0)
    # As wide as the image, or as its longest line.
    wide = max(pixels.width, _BAR + round(widest) + 3 * _MARGIN)
    sheet = Image.new("RGB", (wide, pixels.height + _LINE * len(texts) + 2 * _MARGIN), "white")
    sheet.paste(pixels, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for number, (text, (_, score)) in enumerate(zip(texts, named, strict=True)):
        top = pixels.height + _MARGIN + number * _LINE
        end = _MARGIN + round(_BAR * score)
        pen.rectangle((_MARGIN, top + 3, end, top + _LINE - 4), fill=(70, 110, 180))
        pen.text((_BAR + 2 * _MARGIN, top), text, fill="black", font=font)
    return sheet
