"""Several maps as one sequence of tokens, and where each token lies in its image.

Shapes: B images, L levels from the finest, S tokens over all levels, row by row and level after
level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ANCHOR = 0.05  # side of the first guess at an object on the finest level, in shares of the image
INSIDE = (0.01, 0.99)  # guesses whose centre or side lies outside are not made


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The geometry of a batch's maps."""

    shapes: list[tuple[int, int]]
    """Rows and columns of each map."""
    valid: list[Tensor]
    """For each map (B, h, w) bool: whether a token's cell overlaps its image's valid part."""
    ratios: Tensor
    """(B, L, 2) float32: the valid part's width and height over those that the map covers.

    More than 1 where a map was cut short because its stride does not divide the canvas.
    """

    @property
    def mask(self) -> Tensor:
        """(B, S) bool: `valid` of all tokens."""
        return torch.cat([part.flatten(1) for part in self.valid], dim=1)

    @property
    def sides(self) -> Tensor:
        """(L, 2) int64: `shapes` as a tensor."""
        numbers = [number for shape in self.shapes for number in shape]
        return _filled(numbers, self.ratios.device).view(-1, 2)

    @property
    def starts(self) -> Tensor:
        """(L,) int64: the first token of each level."""
        areas = [rows * columns for rows, columns in self.shapes]
        return _filled([0, *areas[:-1]], self.ratios.device).cumsum(0)

    def anchors(self) -> tuple[Tensor, Tensor]:
        """A first guess at an object for each token (Deformable DETR, appendix A.4).

        Returns:
            Boxes (B, S, 4) in shares of the image, centred on the tokens and twice as large on
            each next level; and (B, S) bool, which of them may be used.
        """
        parts = []
        for level, (rows, columns) in enumerate(self.shapes):
            ratio = self.ratios[:, level, :, None]  # (B, xy, 1)
            device = ratio.device
            # Over the valid part: padding must not move the guesses of an image.
            x = (torch.arange(columns, device=device) + 0.5) / columns / ratio[:, 0]  # (B, w)
            y = (torch.arange(rows, device=device) + 0.5) / rows / ratio[:, 1]  # (B, h)
            x, y = x[:, None].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)
            side = torch.full_like(x, ANCHOR * 2**level)
            parts.append(torch.stack([x, y, side, side], dim=-1).flatten(1, 2))  # (B, h * w, 4)
        boxes = torch.cat(parts, dim=1)
        inside = ((boxes > INSIDE[0]) & (boxes < INSIDE[1])).all(-1)
        return boxes, inside & self.mask


def lay_out(maps: Mapping[int, Tensor], sizes: Tensor) -> Levels:
    """The geometry of maps of images whose valid parts have `sizes`.

    Args:
        maps: stride -> (B, C, h, w), the finest first.
        sizes: (B, 2) int64, height and width in pixels.
    """
    shapes, valid, ratios = [], [], []
    for stride, features in maps.items():
        rows, columns = features.shape[-2:]
        # A cell counts where it begins inside the image.
        down = torch.arange(rows, device=sizes.device) * stride < sizes[:, :1]  # (B, h)
        across = torch.arange(columns, device=sizes.device) * stride < sizes[:, 1:]  # (B, w)
        shapes.append((rows, columns))
        valid.append(down[:, :, None] & across[:, None, :])
        height, width = sizes.float().unbind(-1)
        ratios.append(torch.stack([width / (columns * stride), height / (rows * stride)], dim=-1))
    return Levels(shapes=shapes, valid=valid, ratios=torch.stack(ratios, dim=1))


def _filled(numbers: list[int], device: torch.device) -> Tensor:
    """Numbers that the host knows, (n,) int64 on a device; copying a list would wait for it."""
    return torch.stack([torch.full((), number, device=device) for number in numbers])
