"""The feature pyramid (paper eq. 3): from the last stage down, splitting tokens, channel MLPs only.

Shapes: U1 (B, N, 4, 4, d/4), U2 (B, N, 2, 2, d/2), U3 (B, N, 1, 1, d); V1, V2, V3 likewise with P
channels. Nothing mixes two patches, so masked patches stay unseen; unless convolutions take the
place of the channel MLPs (Table 9).
"""

from __future__ import annotations

from torch import Tensor, nn

from itpn_ray.models.config import STRIDES, PyramidConfig
from itpn_ray.models.layers.blocks import EarlyBlock, LayerNorm, Mlp, initialise, spread_cells
from itpn_ray.models.layers.convolution import ConvBlock, Patches


class Split(nn.Module):
    """One token of C channels becomes 2x2 of P."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.expand = nn.Linear(width, 4 * out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, m, m, C) to (B, N, 2m, 2m, P)."""
        return spread_cells(self.expand(self.norm(x)))


class Pyramid(nn.Module):
    """Three maps of one width from the three stages of a trunk.

    Args:
        config: the pyramid.
        widths: of the trunk's stages, d/4, d/2, d.
        finest: stride of the first map; 8 leaves out V1 and what only it needs.
        convolution: whether its blocks are convolutions, as the trunk's.
    """

    def __init__(
        self,
        config: PyramidConfig,
        widths: tuple[int, int, int],
        *,
        finest: int = 4,
        convolution: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.finest = finest
        self.convolution = convolution
        width = config.width
        # A trunk as wide as the pyramid needs no projection, and the authors have none there.
        self.lateral3 = nn.Linear(widths[2], width) if widths[2] != width else nn.Identity()
        self.lateral2 = nn.Linear(widths[1], width, bias=False)
        self.lateral1 = nn.Linear(widths[0], width, bias=False)
        self.split3 = Split(widths[2], width)
        self.split2 = Split(width, width)
        self.blocks2 = nn.Sequential(*(self._block() for _ in range(config.depth)))
        self.blocks1 = nn.Sequential(*(self._block() for _ in range(config.depth)))
        self.out3 = self._block()
        self.out2 = self._block()
        self.out1 = self._block()
        initialise(self)
        if finest > STRIDES[0]:
            # After drawing, so that the other weights are those of a whole pyramid of the same
            # seed.
            del self.lateral1, self.split2, self.blocks1, self.out1

    def _block(self) -> EarlyBlock | ConvBlock:
        width = self.config.width
        if self.convolution:
            return ConvBlock(width)
        return EarlyBlock(Mlp(width, round(width * self.config.mlp_ratio)), width)

    def forward(
        self, u1: Tensor, u2: Tensor, u3: Tensor, patches: Patches | None = None
    ) -> dict[int, Tensor]:
        """The maps by stride: {4: V1 (B, N, 4, 4, P), 8: V2 (.., 2, 2, P), 16: V3 (.., 1, 1, P)}.

        From stride `finest` on, of the `patches` that the tokens are of, which convolutions ask
        for. The way down starts at U3 itself, in the trunk's width (as the authors' code has it).
        """
        x2 = self.split3(u3) + self.lateral2(u2)
        for block in self.blocks2:
            x2 = block(x2, None, patches)
        coarse = {
            8: self.out2(x2, None, patches),
            16: self.out3(self.lateral3(u3), None, patches),
        }
        if self.finest > STRIDES[0]:
            return coarse
        x1 = self.split2(x2) + self.lateral1(u1)
        for block in self.blocks1:
            x1 = block(x1, None, patches)
        return {4: self.out1(x1, None, patches), **coarse}


class Fold(nn.Module):
    """The three pyramid maps folded into one token a patch and summed (V of paper 3.2).

    A token of stride 16 gives all `width` numbers, one of stride 8 a quarter, one of stride 4 a
    sixteenth, side by side in row-major order.
    """

    def __init__(self, pyramid_width: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm(pyramid_width) for _ in STRIDES)
        self.linears = nn.ModuleList(
            nn.Linear(pyramid_width, width // (16 // stride) ** 2) for stride in STRIDES
        )
        initialise(self)

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Map {4: V1, 8: V2, 16: V3} to (B, N, width)."""
        parts = [
            linear(norm(maps[stride])).flatten(2)  # (B, N, m, m, width / m^2) -> (B, N, width)
            for stride, norm, linear in zip(STRIDES, self.norms, self.linears, strict=True)
        ]
        # In the order in which the authors add them: float sums depend on it.
        return parts[2] + parts[1] + parts[0]
