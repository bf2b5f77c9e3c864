"""Patches of pixels put back into images, for tests that change the patches alone."""

from __future__ import annotations

from torch import Tensor

from itpn_ray.models.config import PATCH


def unpatch_pixels(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patch_pixels`: (B, L, 768) on a grid to (B, 3, H, W)."""
    # (B, R, C, P, P, 3) -> (B, 3, R, P, C, P)
    x = patches.reshape(-1, *grid, PATCH, PATCH, 3).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(-1, 3, grid[0] * PATCH, grid[1] * PATCH)
