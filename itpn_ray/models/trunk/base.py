"""What both families of trunk share: three stages, and how tokens flow through them.

Shapes: B images (B, 3, H, W); N = H/16 * W/16 patches in row-major order, or Nv visible ones;
U1 (B, N, 4, 4, d/4), U2 (B, N, 2, 2, d/2), U3 (B, N, 1, 1, d).

Nothing before stage 3 mixes two patches, so the tokens stay grouped by patch, and masked patches
are dropped before the patch embedding (paper 3.4, decision of HiViT).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from itpn_ray.errors import ConfigError, DataError
from itpn_ray.models.acceleration.config import Accelerated, Acceleration
from itpn_ray.models.acceleration.gathering import Gathering
from itpn_ray.models.acceleration.stage3 import Plan, make_plan, run_blocks
from itpn_ray.models.config import PATCH, TrunkConfig
from itpn_ray.models.layers.blocks import (
    EPS,
    Attention,
    Block,
    ConvLinear,
    EarlyBlock,
    LayerNorm,
    initialise,
    patchify,
)
from itpn_ray.models.layers.convolution import ConvBlock, Patches
from itpn_ray.models.layers.position import (
    Grid,
    gather_pairs,
    relative_index,
    resize_relative_table,
    resize_table,
)

Keep = Sequence[Tensor] | None


class Trunk(Accelerated, nn.Module, ABC):
    """A trunk of either family; the families differ in their blocks and merges."""

    position_offset: float  # see position.resize_table
    key_bias: bool  # whether the keys of attention have one
    drop_rates: Tensor
    home_index: Tensor | None
    gathering: Gathering | None

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.widths = (config.width // 4, config.width // 2, config.width)
        self.num_drops = config.num_drops
        first, second, third = self.widths
        # 48: three colours of 4 x 4 pixels.
        self.embed = ConvLinear(48, first)
        self.embed_norm = LayerNorm(first) if config.patch_norm else nn.Identity()
        self.stage1 = nn.ModuleList(self._early(first) for _ in range(config.depths[0]))
        self.merge1 = self.merge(first)
        self.stage2 = nn.ModuleList(self._early(second) for _ in range(config.depths[1]))
        self.merge2 = self.merge(second)
        self.position = nn.Parameter(torch.zeros(1, config.grid**2, third))
        self.stage3 = nn.ModuleList(self.block() for _ in range(config.depths[2]))
        # No part of files: the rates follow from the configuration.
        self.register_buffer("drop_rates", drop_rates(config), persistent=False)
        # Of the grid that the trunk was made for, kept: it is asked for in each pass.
        home = relative_index((config.grid, config.grid)) if config.relative_position else None
        self.register_buffer("home_index", home, persistent=False)
        self.checkpointing = False
        self.frozen = False
        self.gathering = None
        self.set_acceleration(config.acceleration)
        initialise(self)
        nn.init.trunc_normal_(self.position, std=0.02)

    def _early(self, width: int) -> EarlyBlock | ConvBlock:
        """A new block of stage 1 or 2."""
        return self.conv_block(width) if self.config.convolution else self.early_block(width)

    @abstractmethod
    def early_block(self, width: int) -> EarlyBlock:
        """A new block of stage 1 or 2, of channel MLPs."""

    def conv_block(self, width: int) -> ConvBlock:
        """A new block of stage 1 or 2, of convolutions."""
        return ConvBlock(width)

    @abstractmethod
    def merge(self, width: int) -> nn.Module:
        """A new layer that merges 2x2 tokens of `width` into one of twice the width."""

    @abstractmethod
    def mlp(self, width: int) -> nn.Module:
        """A new MLP of a block of stage 3."""

    def block(self, eps: float = EPS) -> Block:
        """A new block of stage 3: LN and attention, LN and an MLP, each scaled where that is on."""
        config = self.config
        attention = Attention(
            config.width,
            config.heads,
            key_bias=self.key_bias,
            relative_grid=config.grid if config.relative_position else None,
        )
        mlp = self.mlp(config.width)
        return Block(attention, mlp, config.width, layer_scale=config.layer_scale, eps=eps)

    @property
    def acceleration(self) -> Acceleration:
        """What is on now."""
        return self.config.acceleration

    def set_acceleration(self, acceleration: Acceleration) -> None:
        """See `Accelerated.set_acceleration`."""
        depth = self.config.depths[2]
        # Thrown away: a ratio that the depth cannot reach must be refused now, not in a pass.
        make_plan(acceleration, None, (self.config.grid,) * 2, depth, self.position.device)
        config = self.config
        gathering = Gathering.for_trunk(
            acceleration, config.width, config.heads, depth, config.relative_position
        )
        if gathering is None or not gathering.same_shapes(self.gathering):
            # What has another shape starts anew; what has an equal one keeps what was learned.
            self.gathering = (
                None
                if gathering is None
                else gathering.to(self.position).learn_from(self.gathering)
            )
        self.config = replace(config, acceleration=acceleration)

    def plan(self, grid: Grid) -> Plan:
        """How stage 3 treats images of `grid` patches under the present acceleration."""
        return make_plan(
            self.acceleration,
            self.gathering,
            grid,
            self.config.depths[2],
            self.position.device,
            own_tables=self.config.relative_position,
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input for the backward pass, and compute the rest again."""
        self.checkpointing = enable

    def freeze(self) -> None:
        """Keep the weights as they are: no gradients, and no drop path in training either."""
        self.frozen = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Trunk:
        """Set the mode; a frozen trunk stays evaluated: an image has one set of features."""
        return super().train(mode and not self.frozen)

    def grid(self, images: Tensor) -> Grid:
        """Patches (down, across) of (B, 3, H, W) images.

        Raises:
            DataError: a side is not a whole number of patches.
        """
        height, width = images.shape[-2:]
        if height % PATCH or width % PATCH or not height or not width:
            raise DataError(
                "images",
                f"{height}x{width} pixels",
                f"the network cuts images into {PATCH}x{PATCH} patches",
                f"Resize or pad them to multiples of {PATCH}",
            )
        return height // PATCH, width // PATCH

    def stages(
        self, images: Tensor, visible: Tensor | None = None, drop_noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The last tokens of each stage (eq. 2).

        Args:
            images: (B, 3, H, W) float, H and W multiples of 16.
            visible: (B, Nv) int64, the patches to see, row-major indices; None: all. The others
                are dropped before the patch embedding.
            drop_noise: (B, num_drops) in [0, 1): decides stochastic depth for each image; None:
                drawn from torch's generator. Not used in eval mode or without drop path.

        Returns:
            U1 (B, N, 4, 4, d/4), U2 (B, N, 2, 2, d/2), U3 (B, N, 1, 1, d); N is Nv with `visible`.
        """
        grid = self.grid(images)
        keep = self.keep(images.shape[0], drop_noise)
        u1, u2, x = self.early(images, visible, keep)
        x = x + self.positions(grid, visible)
        x, _ = self.late(x, grid, visible=visible, keep=keep)
        return u1, u2, x[:, :, None, None, :]

    def early(
        self, images: Tensor, visible: Tensor | None, keep: Keep
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stages 1 and 2: U1, U2, and the tokens (B, N, d) that enter stage 3 without position."""
        x = self.embed_norm(self.embed(patchify(images, visible)))  # (B, N, 4, 4, d/4)
        patches = Patches(self.grid(images), visible)
        drop = 0
        for block in self.stage1:
            x = self.run(block, x, None if keep is None else keep[drop], patches)
            drop += 1
        u1 = x
        x = self.merge1(u1)  # (B, N, 2, 2, d/2)
        for block in self.stage2:
            x = self.run(block, x, None if keep is None else keep[drop], patches)
            drop += 1
        return u1, x, self.merge2(x)[:, :, 0, 0, :]

    def late(
        self,
        x: Tensor,
        grid: Grid,
        *,
        visible: Tensor | None = None,
        keep: Keep = None,
        tap: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Stage 3 on tokens with position: (B, N, d) after the last block, and after block `tap`.

        Without `tap` the second is the first.
        """
        early = self.config.depths[0] + self.config.depths[1]
        branches = [
            None if keep is None else (keep[drop], keep[drop + 1])
            for drop in range(early, self.num_drops, 2)
        ]
        if self.acceleration.active:
            self.check_fine_tuning(whole=visible is None and tap is None)
            x, _ = run_blocks(self.stage3, x, self.plan(grid), branches, self.run)
            return x, x
        index = self.pair_index(grid, visible)
        tapped = None
        for number, block in enumerate(self.stage3):
            x = self.run(block, x, self.pair_bias(block, grid, index), branches[number])
            if number == tap:
                tapped = x
        return x, x if tapped is None else tapped

    def check_fine_tuning(self, whole: bool) -> None:
        """Raise ConfigError unless the `whole` image is seen, as in fine-tuning (section 4)."""
        if not whole:
            raise ConfigError(
                "acceleration",
                self.acceleration,
                "pre-training sees parts of images, and is not accelerated",
                "Switch it off with set_acceleration(Acceleration())",
            )

    def run(self, block: Callable[..., Any], *args: object) -> Any:
        """`block(*args)`, checkpointed if that is on."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            # Blocks draw nothing, so there is no generator state to keep.
            return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)
        return block(*args)

    def positions(self, grid: Grid, visible: Tensor | None = None) -> Tensor:
        """Position codes for a grid, (1, N, d), or of the visible patches, (B, Nv, d).

        iTPN's code resizes its table whenever it sees fewer tokens than the table has, so its
        positions lie a little apart in masked pre-training; weights trained so need them there.
        """
        masked = visible is not None and visible.shape[1] < grid[0] * grid[1]
        table = resize_table(self.position, grid, self.position_offset, always=masked)
        return table if visible is None else table[0][visible]

    def pair_index(self, grid: Grid, visible: Tensor | None) -> Tensor | None:
        """Rows of the offset table for all pairs of tokens, (N, N) or (B, Nv, Nv)."""
        index = self.home_index
        if index is None:
            return None
        if grid != (self.config.grid, self.config.grid):
            index = relative_index(grid, self.position.device)
        return index if visible is None else gather_pairs(index, visible)

    @staticmethod
    def pair_bias(block: nn.Module, grid: Grid, index: Tensor | None) -> Tensor | None:
        """A `Block`'s bias for all pairs of tokens, (1 or B, h, N, N), in rows: see `attend`."""
        assert isinstance(block, Block)
        table = block.attention.relative
        if index is None or table is None:
            return None
        bias = resize_relative_table(table, grid)[index]  # (..., N, N, h)
        # Contiguous, for attention's fused kernels want rows, see `Attention.attend`.
        bias = bias.movedim(-1, -3).contiguous()
        return bias.view(-1, block.attention.heads, *index.shape[-2:])

    def keep(self, batch: int, drop_noise: Tensor | None) -> Keep:
        """Weights of each residual branch, num_drops times (B,), or None if all are 1.

        A branch is dropped where the noise is below its rate, and else scaled up by 1 / (1 - rate).
        """
        if not self.training or self.config.drop_path == 0.0:
            return None
        return keep_weights(self.drop_rates, batch, drop_noise)


def drop_rates(config: TrunkConfig) -> Tensor:
    """The drop path rate of each residual branch, (num_drops,): even steps from 0 over blocks."""
    rates = torch.linspace(0.0, config.drop_path, sum(config.depths))
    early = config.depths[0] + config.depths[1]
    # Blocks of stage 3 have two branches, those of stages 1 and 2 one.
    return torch.cat([rates[:early], rates[early:].repeat_interleave(2)])


def keep_weights(rates: Tensor, batch: int, drop_noise: Tensor | None) -> Sequence[Tensor]:
    """For each branch, (B,) weights: 0 where noise < rate, else 1 / (1 - rate)."""
    if drop_noise is None:
        drop_noise = torch.rand(batch, rates.numel(), device=rates.device)
    # Scaled up, so that the expected sum is that of all branches.
    weights = (drop_noise >= rates).float() / (1.0 - rates)  # (B, num_drops)
    return weights.unbind(1)
