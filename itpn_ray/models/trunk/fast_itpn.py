"""Fast-iTPN's trunk (paper section 4 and Table 2): ConvMLP early, SwiGLU late, sub-layer norms."""

from __future__ import annotations

from torch import Tensor, nn

from itpn_ray.models.layers.blocks import (
    ConvLinear,
    EarlyBlock,
    LayerNorm,
    Mlp,
    SwiGlu,
    group_cells,
)
from itpn_ray.models.trunk.base import Trunk


class ConvMerge(nn.Module):
    """Layer norm of each token, then the authors' 2x2 convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.reduce = ConvLinear(4 * width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, 2m, 2m, C) to (B, N, m, m, 2C)."""
        return self.reduce(group_cells(self.norm(x)))


class FastItpn(Trunk):
    """Fast-iTPN. Early blocks carry no layer scale; keys have no bias."""

    position_offset = 0.0
    key_bias = False

    def early_block(self, width: int) -> EarlyBlock:
        """LN, 1x1 convolution, GELU, LN, 1x1 convolution."""
        hidden = round(width * self.config.early_mlp_ratio)
        return EarlyBlock(Mlp(width, hidden, sub_norm=True, conv=True), width)

    def merge(self, width: int) -> nn.Module:
        """LN and a 2x2 convolution."""
        return ConvMerge(width)

    def mlp(self, width: int) -> nn.Module:
        """SwiGLU."""
        return SwiGlu(width, round(width * self.config.mlp_ratio))
