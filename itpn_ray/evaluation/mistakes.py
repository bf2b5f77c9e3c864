"""The images that a classifier is surest of and wrong about: a list, and a sheet of them.

Shapes: B images of S x S pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MOST = 100
"""Mistakes that are kept."""
_DRAWN, _COLUMNS = 24, 6
_SIDE, _GAP, _LINE, _TEXT = 148, 10, 17, 12


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image that was taken for another class.

    Attributes:
        sample_id: its row in the split.
        label: its class.
        answer: the class it was taken for.
        score: the answer's probability.
        image: (3, S, S) uint8 on the CPU, as the network saw it.
    """

    sample_id: int
    label: int
    answer: int
    score: float
    image: Tensor


class Mistakes:
    """Collects the surest of the mistakes as batches go by."""

    def __init__(self) -> None:
        self.worst: list[Mistake] = []

    @torch.no_grad()
    def update(self, images: Tensor, logits: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Add one batch.

        Args:
            images: (B, 3, S, S) uint8.
            logits: (B, C) float; those of an image that are not finite are no answer.
            labels: (B,) int64.
            ids: (B,) int64, rows in the split.
        """
        scores, answers = logits.float().softmax(1).max(1)
        wrong = (answers != labels) & scores.isfinite()
        order = torch.where(wrong, scores, -1.0).argsort(descending=True, stable=True)
        for place in order[: min(int(wrong.sum()), MOST)].tolist():
            self.worst.append(
                Mistake(
                    sample_id=int(ids[place]),
                    label=int(labels[place]),
                    answer=int(answers[place]),
                    score=float(scores[place]),
                    image=images[place].cpu(),
                )
            )
        # By id where scores are equal, so that the same images are drawn by any batch size.
        self.worst = sorted(self.worst, key=lambda one: (-one.score, one.sample_id))[:MOST]

    def draw(self, names: Sequence[str], path: str | Path) -> Path:
        """Write the surest mistakes as one PNG, each with its label and the answer.

        Args:
            names: of the classes.
            path: the PNG to write; there must be a mistake.
        """
        drawn = self.worst[:_DRAWN]
        columns = min(_COLUMNS, len(drawn))
        rows = -(-len(drawn) // columns)
        width, height = _SIDE + _GAP, _SIDE + 2 * _LINE + _GAP
        # The last row may be shorter.
        sheet = Image.new("RGB", (columns * width, rows * height), "white")
        for number, mistake in enumerate(drawn):
            row, column = divmod(number, columns)
            sheet.paste(_tile(mistake, names), (column * width, row * height))
        out = Path(path)
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out, "PNG")
        return out


def _tile(mistake: Mistake, names: Sequence[str]) -> Image.Image:
    """One image above its label and the answer."""
    tile = Image.new("RGB", (_SIDE, _SIDE + 2 * _LINE), "white")
    pixels = mistake.image.permute(1, 2, 0).contiguous().numpy()
    tile.paste(Image.fromarray(pixels).resize((_SIDE, _SIDE)), (0, 0))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(_TEXT)
    texts = (
        f"is {names[mistake.label]}",
        f"{100 * mistake.score:.0f} % {names[mistake.answer]}",
    )
    for line, text in enumerate(texts):
        colour = (40, 44, 52) if line == 0 else (181, 72, 47)
        pen.text((0, _SIDE + 1 + line * _LINE), " ".join(text.split()), fill=colour, font=font)
    return tile
