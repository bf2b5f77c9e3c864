"""The CLIP distillation network (paper 3.3): mask tokens at stage 3, all tokens supervised.

Shapes: L = H/16 * W/16 patches, T the teacher's width; masks (B, L) bool, True = masked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from itpn_ray.models.config import DistillerConfig
from itpn_ray.models.layers.blocks import LayerNorm, initialise
from itpn_ray.models.layers.convolution import Patches
from itpn_ray.models.networks.base import Network
from itpn_ray.models.trunk.base import Trunk, keep_weights
from itpn_ray.models.trunk.pyramid import Fold, Pyramid

AUX_EPS = 1e-5  # the authors leave the auxiliary blocks at PyTorch's own epsilon


class ClipDistiller(Network):
    """Predicts a teacher's tokens twice: from the summed pyramid, and from inside the trunk.

    The auxiliary branch leaves the trunk after block int(0.75 * depth) of stage 3 and goes through
    blocks of its own.

    Args:
        config: the network.
        trunk: the trunk that `config.trunk` describes.
    """

    config: DistillerConfig
    aux_rates: Tensor

    def __init__(self, config: DistillerConfig, trunk: Trunk) -> None:
        super().__init__()
        self.config = config
        width = config.trunk.width
        self.trunk = trunk
        self.pyramid = Pyramid(config.pyramid, trunk.widths, convolution=config.trunk.convolution)
        self.fold = Fold(config.pyramid.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.main_norm = LayerNorm(width)
        self.to_teacher = nn.Linear(width, config.teacher_dim)
        self.aux_blocks = nn.ModuleList(trunk.block(AUX_EPS) for _ in range(config.aux_depth))
        self.aux_norm = LayerNorm(width)
        self.aux_to_teacher = nn.Linear(width, config.teacher_dim)
        for part in (self.to_teacher, self.aux_blocks, self.aux_to_teacher):
            initialise(part)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.register_buffer("aux_rates", self._aux_rates(), persistent=False)
        self.num_drops = trunk.num_drops + self.aux_rates.numel()

    @property
    def branch(self) -> int:
        """The block of stage 3 after which the auxiliary branch leaves."""
        # The authors branch off after three quarters of stage 3.
        return int(0.75 * self.config.trunk.depths[2])

    def _aux_rates(self) -> Tensor:
        """Drop path rates of the auxiliary blocks: those of the trunk's blocks at that depth."""
        # A block's two branches share a rate, so every second number is enough.
        late = self.trunk.drop_rates[-2 * self.config.trunk.depths[2] :: 2]
        at = torch.arange(self.branch, self.branch + self.config.aux_depth)
        # A trunk with fewer blocks left than the branch has repeats its last rate.
        return late[at.clamp(max=late.numel() - 1)].repeat_interleave(2)

    def forward(
        self, images: Tensor, mask: Tensor, *, drop_noise: Tensor | None = None
    ) -> dict[str, Any]:
        """Predict the teacher's tokens of all patches.

        Args:
            images: (B, 3, H, W) float, whole: stages 1 and 2 see masked patches too, and so do the
                pyramid's lateral paths, as in the authors' code.
            mask: (B, L) bool, True = replaced by the mask token at the entrance of stage 3.
            drop_noise: (B, num_drops), see `Trunk.stages`; the trunk's branches come first.

        Returns:
            `main` and `aux` (B, L, T), and `pyramid` {4: V1 (B, L, 4, 4, P), 8: V2, 16: V3}.
        """
        trunk = self.trunk
        grid = trunk.grid(images)
        own = trunk.num_drops
        noise, aux_noise = (None, None)
        if drop_noise is not None:
            noise, aux_noise = drop_noise[:, :own], drop_noise[:, own:]
        keep = trunk.keep(images.shape[0], noise)
        u1, u2, x = trunk.early(images, None, keep)
        # Before the position codes, so that a mask token knows where it stands.
        x = torch.where(mask.bool()[:, :, None], self.mask_token.to(x.dtype), x)
        x, taken = trunk.late(x + trunk.positions(grid), grid, keep=keep, tap=self.branch)
        pyramid = self.pyramid(u1, u2, x[:, :, None, None, :], Patches(grid))
        main = self.to_teacher(self.main_norm(self.fold(pyramid)))
        aux = self._aux(taken, grid, aux_noise)
        return {"main": main, "aux": aux, "pyramid": pyramid}

    def _aux(self, x: Tensor, grid: tuple[int, int], noise: Tensor | None) -> Tensor:
        """The auxiliary branch from the tapped tokens (B, L, d) to (B, L, T)."""
        trunk = self.trunk
        keep = None
        if self.training and self.config.trunk.drop_path > 0.0:
            keep = keep_weights(self.aux_rates, x.shape[0], noise)
        index = trunk.pair_index(grid, None)
        for i, block in enumerate(self.aux_blocks):
            branches = None if keep is None else (keep[2 * i], keep[2 * i + 1])
            x = trunk.run(block, x, trunk.pair_bias(block, grid, index), branches)
        return self.aux_to_teacher(self.aux_norm(x))
