"""Convolutions over tokens that are grouped by patch: what C-MLPs are compared with (Table 9).

A convolution mixes neighbouring patches, which channel MLPs never do: with masked patches it sees
zeros where they would be.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.models.layers.blocks import LayerNorm, add_branch, from_map, new_scale, to_map
from itpn_ray.models.layers.position import Grid


class Patches(NamedTuple):
    """Where the patches of a batch of tokens lie."""

    grid: Grid
    """Patches (down, across) of the whole image."""
    visible: Tensor | None = None
    """(B, Nv) int64, those that there are tokens of, row-major; None: all."""


class ConvBlock(nn.Module):
    """A 3x3 convolution, GELU and a linear layer with their residual, in an `EarlyBlock`'s place.

    The paper says "convolution instead of C-MLP" and no more: this one keeps the block's norm,
    residual and width, and has 10 C^2 weights where the MLP has 6 C^2 (ratio 3) or 8 C^2 (4).
    """

    def __init__(self, width: int, *, layer_scale: float | None = None) -> None:
        super().__init__()
        self.norm2 = LayerNorm(width)
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.fc2 = nn.Linear(width, width)
        self.scale2 = new_scale(width, layer_scale)

    def forward(self, x: Tensor, keep: Tensor | None, patches: Patches) -> Tensor:
        """Map (B, N, m, m, C) of `patches` to the same; `keep` weighs each image's branch, (B,)."""
        whole = to_map(spread(self.norm2(x), patches), patches.grid)
        mixed = gathered(from_map(self.conv(whole), patches.grid), patches)
        return add_branch(x, self.fc2(F.gelu(mixed)), self.scale2, keep)


def spread(x: Tensor, patches: Patches) -> Tensor:
    """Tokens (B, Nv, m, m, C) of visible patches among zeros: (B, N, m, m, C) of all."""
    if patches.visible is None:
        return x
    batch, _, *rest = x.shape
    tokens = patches.grid[0] * patches.grid[1]
    # Images are laid end to end, so that one index serves the batch.
    first = torch.arange(batch, device=x.device)[:, None] * tokens
    whole = x.new_zeros(batch * tokens, *rest)
    whole = whole.index_copy(0, (patches.visible + first).flatten(), x.flatten(0, 1))
    return whole.view(batch, tokens, *rest)


def gathered(x: Tensor, patches: Patches) -> Tensor:
    """The tokens (B, Nv, m, m, C) of visible patches among those of all, (B, N, m, m, C)."""
    if patches.visible is None:
        return x
    image = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[image, patches.visible]
