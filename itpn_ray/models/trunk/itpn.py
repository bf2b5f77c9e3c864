"""iTPN's trunk (paper section 3): HiViT with plain MLPs, optionally with relative position."""

from __future__ import annotations

from torch import Tensor, nn

from itpn_ray.models.config import TrunkConfig
from itpn_ray.models.layers.blocks import (
    EPS,
    Attention,
    Block,
    EarlyBlock,
    LayerNorm,
    Mlp,
    group_cells,
    initialise,
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

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__(config)
        initialise(self)
        nn.init.trunc_normal_(self.position, std=0.02)

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

    def block(self, eps: float = EPS) -> Block:
        """LN and attention, LN and an MLP."""
        config = self.config
        attention = Attention(
            config.width,
            config.heads,
            key_bias=True,
            relative_grid=config.grid if config.relative_position else None,
        )
        mlp = Mlp(config.width, round(config.width * config.mlp_ratio))
        return Block(attention, mlp, config.width, layer_scale=config.layer_scale, eps=eps)
