"""Position: fixed codes, tables resized to any grid, and relative offsets.

Shapes: S side of a table's grid, (H, W) grid of the image, C channels, N = H * W tokens.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def sincos_table(width: int, grid: int) -> Tensor:
    """Fixed 2D position codes, (1, grid * grid, width) float32, as MAE defines them.

    The first half of the channels codes the column, the second the row; each half is sines then
    cosines of width / 4 frequencies from 1 down to 1 / 10000.
    """
    # In float64 and rounded once, so that the codes equal MAE's, which NumPy made.
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies  # (S, C/4)
    codes = torch.cat([angles.sin(), angles.cos()], dim=1)  # (S, C/2)
    columns = codes[None, :, :].expand(grid, -1, -1)  # (S rows, S columns, C/2)
    rows = codes[:, None, :].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=2).reshape(1, grid * grid, width).float()


def table_side(table: Tensor) -> int:
    """S of a position table (1, S * S, C)."""
    return math.isqrt(table.shape[1])


def resize_table(table: Tensor, grid: Grid, offset: float = 0.0, *, always: bool = False) -> Tensor:
    """A position table (1, S * S, C) resized bicubically to (1, H * W, C).

    Args:
        table: absolute positions on a square grid, row-major.
        grid: (H, W) wanted.
        offset: iTPN's code scales by (H + 0.1) / S instead of H / S, which shifts the sampling
            points a little; weights trained so must be resized so. 0 for Fast-iTPN.
        always: sample anew even if the grid is the table's own, which with an offset moves it.
    """
    side = table_side(table)
    if grid == (side, side) and not (always and offset):
        return table
    plane = resample(table[0].unflatten(0, (side, side)), grid, offset)
    return plane.flatten(0, 1)[None]  # (H, W, C) -> (1, H * W, C)


def resize_relative_table(table: Tensor, grid: Grid) -> Tensor:
    """A table of offsets ((2S-1)^2, heads) resized bicubically to ((2H-1)(2W-1), heads)."""
    side = math.isqrt(table.shape[0])
    offsets = (2 * grid[0] - 1, 2 * grid[1] - 1)
    if offsets == (side, side):
        return table
    return resample(table.unflatten(0, (side, side)), offsets).flatten(0, 1)


def resample(plane: Tensor, grid: Grid, offset: float = 0.0) -> Tensor:
    """A plane (S, S, C) resized bicubically to (H, W, C), as `F.interpolate` does it.

    By two matrix products, in float32 even under autocast: on a GPU the gradient of `F.interpolate`
    depends on the order in which threads add, and a run could not be repeated to the bit. What
    comes out has the plane's own type, so that a network cast to bf16 stays in it at any size.
    """
    down, across = (_bicubic(plane.shape[0], length, offset, plane.device) for length in grid)
    autocast_off = (
        nullcontext()
        if plane.device.type == "meta"  # has no autocast
        else torch.autocast(plane.device.type, enabled=False)
    )
    with autocast_off:
        rows = (down @ plane.float().flatten(1)).unflatten(1, plane.shape[1:])  # (H, S, C)
        return (across @ rows).to(plane.dtype)


@torch.no_grad()
def _bicubic(side: int, length: int, offset: float, device: torch.device) -> Tensor:
    """What each of `length` samples takes from each of `side`, (length, side) float32."""
    # Resizing is linear: resizing the unit vectors gives its matrix, exactly as PyTorch has it.
    ones = torch.eye(side, device=device).view(1, side, side, 1)  # (1, channel, place, 1)
    if offset:
        # The other axis has one place, and keeps it.
        scale = [(length + offset) / side, 1.0]
        taken = F.interpolate(ones, scale_factor=scale, mode="bicubic")
    else:
        taken = F.interpolate(ones, size=(length, 1), mode="bicubic")
    # (1, side, length, 1) -> (length, side)
    return taken[0, :, :, 0].t()


def relative_index(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Row of the offset table for every pair of tokens, (N, N) int64: query row, key column.

    The offset of query (i, j) from key (k, l) has row (i - k + H - 1) * (2W - 1) + j - l + W - 1.
    """
    height, width = grid
    rows = torch.arange(height, device=device).repeat_interleave(width)  # (N,)
    columns = torch.arange(width, device=device).repeat(height)
    # Counted from 0 on: offsets begin at -(height - 1).
    down = rows[:, None] - rows[None, :] + height - 1
    across = columns[:, None] - columns[None, :] + width - 1
    return down * (2 * width - 1) + across


def gather_pairs(index: Tensor, visible: Tensor) -> Tensor:
    """The part of a pair index (N, N) that visible tokens (B, Nv) need, (B, Nv, Nv)."""
    return index[visible[:, :, None], visible[:, None, :]]
