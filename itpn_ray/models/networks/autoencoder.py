"""The pixel masked autoencoder (paper 3.2 and 5.1): visible patches in, normalised pixels out.

Shapes: L = H/16 * W/16 patches, Nv of them visible; masks (B, L) bool, True = masked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from itpn_ray.errors import DataError
from itpn_ray.models.config import PATCH, STRIDES, AutoencoderConfig
from itpn_ray.models.layers.blocks import Attention, Block, LayerNorm, Mlp, initialise
from itpn_ray.models.layers.convolution import Patches
from itpn_ray.models.layers.position import resize_table, sincos_table
from itpn_ray.models.networks.base import Network
from itpn_ray.models.trunk.base import Trunk
from itpn_ray.models.trunk.pyramid import Fold, Pyramid


class PixelAutoencoder(Network):
    """Trunk and pyramid on the visible patches, and a decoder that paints the masked ones.

    Without integral pre-training there is no pyramid: the decoder sees the trunk's last stage.

    Args:
        config: the network.
        trunk: the trunk that `config.trunk` describes.
    """

    config: AutoencoderConfig
    decoder_position: Tensor
    pyramid: Pyramid | None
    fold: Fold | None
    embed: nn.Sequential | None

    def __init__(self, config: AutoencoderConfig, trunk: Trunk) -> None:
        super().__init__()
        self.config = config
        width, grid = config.decoder_width, config.trunk.grid
        self.trunk = trunk
        self.pyramid, self.fold, self.embed = None, None, None
        if config.integral:
            self.pyramid = Pyramid(
                config.pyramid, trunk.widths, convolution=config.trunk.convolution
            )
            self.fold = Fold(config.pyramid.width, width)
        else:
            self.embed = nn.Sequential(
                LayerNorm(config.trunk.width), nn.Linear(config.trunk.width, width)
            )
            initialise(self.embed)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        # Fixed codes, kept in files because the authors' files hold them.
        self.register_buffer("decoder_position", sincos_table(width, grid))
        self.decoder = nn.ModuleList(self._decoder_block() for _ in range(config.decoder_depth))
        self.decoder_norm = LayerNorm(width)
        self.to_pixels = nn.Linear(width, 3 * PATCH**2)
        for part in (self.decoder, self.decoder_norm, self.to_pixels):
            initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)
        # Trainable, but started from fixed codes as in MAE.
        # After the trunk's own start, which drew it at random.
        trunk.position.data.copy_(sincos_table(config.trunk.width, grid))
        self.num_drops = trunk.num_drops

    def _decoder_block(self) -> Block:
        config = self.config
        width = config.decoder_width
        attention = Attention(width, config.decoder_heads, key_bias=True)
        return Block(attention, Mlp(width, round(width * config.decoder_mlp_ratio)), width)

    def forward(
        self,
        images: Tensor,
        mask: Tensor,
        *,
        visible: Tensor | None = None,
        drop_noise: Tensor | None = None,
    ) -> dict[str, Any]:
        """Reconstruct the masked patches.

        Args:
            images: (B, 3, H, W) float.
            mask: (B, L) bool, True = masked, equally many in each image.
            visible: (B, Nv) int64, the patches not masked. They follow from `mask`; whoever has
                them spares the device a synchronisation, and `torch.compile` a graph break.
            drop_noise: see `Trunk.stages`.

        Returns:
            `loss`, a scalar: mean squared error over masked patches of pixels normalised by patch;
            `pred` (B, L, 768), a patch's pixels ordered row, column, channel; `pyramid` {4: V1
            (B, Nv, 4, 4, P), 8: V2, 16: V3}, empty where there is none, and `stages` (U1, U2, U3)
            of the visible patches.

        Raises:
            DataError: images with different numbers of masked patches, or with none visible.
        """
        if visible is None:
            visible = visible_patches(mask)
        stages = self.trunk.stages(images, visible, drop_noise)
        grid = self.trunk.grid(images)
        pyramid = self.maps(stages, Patches(grid, visible))
        pred = self.decode(self.seen(pyramid, stages[-1]), visible, grid)
        loss = masked_pixel_loss(pred, images, mask)
        return {"loss": loss, "pred": pred, "pyramid": pyramid, "stages": stages}

    def encode(self, images: Tensor, visible: Tensor) -> Tensor:
        """Tokens (B, Nv, D) of visible patches (B, Nv), as the decoder is given them."""
        stages = self.trunk.stages(images, visible)
        maps = self.maps(stages, Patches(self.trunk.grid(images), visible))
        return self.seen(maps, stages[-1])

    def maps(self, stages: tuple[Tensor, Tensor, Tensor], patches: Patches) -> dict[int, Tensor]:
        """The pyramid of `patches`; empty where there is none."""
        return {} if self.pyramid is None else self.pyramid(*stages, patches)

    def seen(self, pyramid: dict[int, Tensor], last: Tensor) -> Tensor:
        """What the decoder is told of the visible patches, (B, Nv, D): pyramid or last stage."""
        if self.embed is not None:
            return self.embed(last[:, :, 0, 0, :])
        assert self.fold is not None
        return self.fold(pyramid)

    def decode(self, seen: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pixels of all patches, (B, L, 768), from tokens (B, Nv, D) of the visible ones."""
        x = self.decoder_input(seen, visible, grid)
        for block in self.decoder:
            x = self.trunk.run(block, x)
        return self.to_pixels(self.decoder_norm(x))

    def decoder_input(self, seen: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, L, D) of all patches with their positions: seen ones and mask tokens."""
        batch, _, width = seen.shape
        tokens = grid[0] * grid[1]
        # The authors put the mask token into each of the three maps before they are summed.
        maps = 1 if self.pyramid is None else len(STRIDES)
        unseen = (maps * self.mask_token).to(seen.dtype).expand(batch * tokens, 1, -1)
        # Images laid end to end, so that one index serves the batch.
        first = torch.arange(batch, device=visible.device)[:, None] * tokens
        x = unseen.flatten(0, 1).index_copy(0, (visible + first).flatten(), seen.flatten(0, 1))
        return x.view(batch, tokens, width) + resize_table(self.decoder_position, grid, 0.0)


def visible_patches(mask: Tensor) -> Tensor:
    """The patches that `mask` (B, L) leaves visible, ascending, (B, Nv) int64.

    Raises:
        DataError: rows that leave different numbers, or none.
    """
    counts = (~mask).sum(dim=1)
    few, many = int(counts.min()), int(counts.max())
    if few != many or few == 0:
        raise DataError(
            "mask",
            f"{few} to {many} visible patches an image",
            "a batch is one tensor, so its images show equally many patches, and at least one",
            "Mask the same number of patches in each image",
        )
    # Stable, so that equal values keep their order and the patches come ascending.
    return mask.int().argsort(dim=1, stable=True)[:, :many]


def patch_pixels(images: Tensor) -> Tensor:
    """(B, 3, H, W) as patches (B, L, 768), each ordered row, column, channel."""
    batch, _, height, width = images.shape
    rows, columns = height // PATCH, width // PATCH
    # (B, 3, R, P, C, P) -> (B, R, C, P, P, 3), the order of MAE's pixels.
    x = images.reshape(batch, 3, rows, PATCH, columns, PATCH).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(batch, rows * columns, 3 * PATCH**2)


def normalise_patches(patches: Tensor) -> Tensor:
    """Patches (B, L, 768) with mean 0 and variance 1 each (paper 5.1, as MAE does)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    # MAE's epsilon: a patch of one colour has no variance.
    return (patches - mean) / (variance + 1e-6).sqrt()


def masked_pixel_loss(pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of normalised pixels over the masked patches, a float32 scalar."""
    # float32 under autocast too: a mean over 768 numbers of bfloat16 is coarse.
    target = normalise_patches(patch_pixels(images).float())
    error = (pred.float() - target).square().mean(dim=-1)  # (B, L)
    hidden = mask.to(error.dtype)
    return (error * hidden).sum() / hidden.sum()
