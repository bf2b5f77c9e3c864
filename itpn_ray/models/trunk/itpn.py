"""iTPN's trunk (paper section 3): HiViT with plain MLPs, optionally with relative position."""

from __future__ import annotations

from torch import Tensor, nn

from itpn_ray.models.layers.blocks import (
    EarlyBlock,
    LayerNorm,
    Mlp,
    group_cells,
)
from itpn_ray.models.layers.convolution import ConvBlock
from itpn_ray.models.trunk.base import Trunk


class LinearMerge(nn.Module):
    """Four neighbours side by side, layer norm over all of them, and a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, 2m, 2m, C) to (B, N, m, m, 2C)."""
        return self.reduce(self.norm(group_cells(x)))


class Itpn(Trunk):
    """iTPN. With layer scale (CLIP pre-training) the early blocks carry it too."""

    position_offset = 0.1
    key_bias = True

    def early_block(self, width: int) -> EarlyBlock:
        """LN and an MLP."""
        hidden = round(width * self.config.early_mlp_ratio)
        return EarlyBlock(Mlp(width, hidden), width, layer_scale=self.config.layer_scale)

    def conv_block(self, width: int) -> ConvBlock:
        """With the layer scale of an early block."""
        return ConvBlock(width, layer_scale=self.config.layer_scale)

    def merge(self, width: int) -> nn.Module:
        """LN and a linear layer over four neighbours."""
        return LinearMerge(width)

    def mlp(self, width: int) -> nn.Module:
        """Linear, GELU, linear."""
        return Mlp(width, round(width * self.config.mlp_ratio))
