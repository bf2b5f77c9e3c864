"""Position: fixed codes, tables resized to any grid, and relative offsets.

Shapes: S side of a table's grid, (H, W) grid of the picture, C channels, N = H * W tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def sincos_table(width: int, grid: int) -> Tensor:
    """Fixed 2D position codes, (1, grid * grid, width) float32, as MAE defines them.

    The first half of the channels codes the column, the second the row; each half is sines then
    cosines of width / 4 frequencies from 1 down to 1 / 10000.
    """
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
    plane = table.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, C, S, S)
    if offset:
        scale = [(length + offset) / side for length in grid]
        plane = F.interpolate(plane, scale_factor=scale, mode="bicubic")
    else:
        plane = F.interpolate(plane, size=grid, mode="bicubic")
    return plane.flatten(2).transpose(1, 2)  # (1, H * W, C)


def resize_relative_table(table: Tensor, grid: Grid) -> Tensor:
    """A table of offsets ((2S-1)^2, heads) resized bicubically to ((2H-1)(2W-1), heads)."""
    side = math.isqrt(table.shape[0])
    height, width = 2 * grid[0] - 1, 2 * grid[1] - 1
    if (height, width) == (side, side):
        return table
    plane = table.t().unflatten(1, (side, side))[None]  # (1, heads, 2S-1, 2S-1)
    return F.interpolate(plane, size=(height, width), mode="bicubic")[0].flatten(1).t()


def relative_index(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Row of the offset table for every pair of tokens, (N, N) int64: query row, key column.

    The offset of query (i, j) from key (k, l) has row (i - k + H - 1) * (2W - 1) + j - l + W - 1.
    """
    height, width = grid
    rows = torch.arange(height, device=device).repeat_interleave(width)  # (N,)
    columns = torch.arange(width, device=device).repeat(height)
    down = rows[:, None] - rows[None, :] + height - 1
    across = columns[:, None] - columns[None, :] + width - 1
    return down * (2 * width - 1) + across


def gather_pairs(index: Tensor, visible: Tensor) -> Tensor:
    """The part of a pair index (N, N) that visible tokens (B, Nv) need, (B, Nv, Nv)."""
    return index[visible[:, :, None], visible[:, None, :]]
