"""Block-wise masks: rectangles of hidden patches, a function of (seed, epoch, sample id).

Shapes: B images, L = R * C patches in row-major order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.rng import Stream, uniform_torch

BLOCKS = 16
"""Most rectangles an image; overlaps rarely let it need ten."""
ASPECT = 0.3
"""Smallest height/width of a rectangle; the largest is its inverse."""


def masked_count(tokens: int, ratio: float) -> int:
    """How many of ``tokens`` patches are hidden at a mask ratio.

    Raises:
        ConfigError: no patch would be hidden, or none would be visible.
    """
    # Rounded, not cut off: 0.383 of 196 patches is 75.07, the authors' 75.
    masked = round(tokens * ratio)
    if masked in (0, tokens):
        what = "hidden" if masked == 0 else "visible"
        raise ConfigError(
            "task.mask_ratio",
            ratio,
            f"leaves none of the {tokens} patches {what}",
            "Use larger images (--model.image-size) or a ratio nearer to one half",
        )
    return masked


def block_mask(
    sample_ids: Tensor, *, seed: int, epoch: int, grid: tuple[int, int], masked: int, smallest: int
) -> Tensor:
    """Hide rectangles until the same number of patches is hidden in each image.

    As in BEiT a rectangle has an area from ``smallest`` to what is still to be hidden and a
    log-uniform aspect; the last one is cut short, row by row, where BEiT would stop early with a
    number that varies from image to image (Bao et al., "BEiT", 2022).

    Args:
        sample_ids: (B,) int64; an image's mask does not depend on its batch mates.
        seed: seed of the run.
        epoch: epoch of the draw.
        grid: (R, C), rows and columns of patches.
        masked: patches hidden of each image, from 1 to R * C.
        smallest: least area of a rectangle, patches, before it is cut short.

    Returns:
        (B, L) bool, True where hidden; each row sums to ``masked``.
    """
    rows, columns = grid
    # Four draws a rectangle, then one a patch for what the rectangles leave over.
    draws = uniform_torch(
        seed, epoch, sample_ids, Stream.MASK, 4 * BLOCKS + rows * columns, torch.float64
    )
    blocks = draws[:, : 4 * BLOCKS].unflatten(1, (BLOCKS, 4))  # (B, blocks, 4)
    mask = torch.zeros(len(sample_ids), rows * columns, dtype=torch.bool, device=sample_ids.device)
    for block in blocks.unbind(1):
        missing = masked - mask.sum(1)  # (B,)
        # What is hidden already must not count as newly hidden.
        new = _rectangle(block, missing, grid, min(smallest, masked)) & ~mask
        # In row-major order, no more than are still missing.
        mask |= new & (new.cumsum(1) <= missing[:, None])
    # Should the rectangles not suffice, single patches at random do.
    missing = masked - mask.sum(1)
    # 1 lies above every draw: what is hidden already comes last.
    order = draws[:, 4 * BLOCKS :].masked_fill(mask, 1.0).argsort(dim=1, stable=True)
    return mask | (order.argsort(dim=1) < missing[:, None])


def _rectangle(draws: Tensor, missing: Tensor, grid: tuple[int, int], smallest: int) -> Tensor:
    """A rectangle an image, (B, L) bool, from four draws each: area, aspect, top, left."""
    rows, columns = grid
    area, aspect, top, left = draws.unbind(1)
    area = smallest + area * (missing - smallest).clamp(min=0)
    # Log-uniform, so that wide and tall rectangles are as likely.
    aspect = ((2 * aspect - 1) * math.log(1 / ASPECT)).exp()
    # area = height * width and aspect = height / width.
    height = (area * aspect).sqrt().round().clamp(1, rows)
    width = (area / aspect).sqrt().round().clamp(1, columns)
    # + 1: the last place at which the rectangle still fits is as likely as the others.
    top = (top * (rows - height + 1)).floor()
    left = (left * (columns - width + 1)).floor()
    y = torch.arange(rows, device=draws.device)
    x = torch.arange(columns, device=draws.device)
    down = (y >= top[:, None]) & (y < (top + height)[:, None])  # (B, R)
    across = (x >= left[:, None]) & (x < (left + width)[:, None])  # (B, C)
    return (down[:, :, None] & across[:, None, :]).flatten(1)  # (B, R, C) -> (B, L)
