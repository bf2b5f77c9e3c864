"""Maps over an image: what a query token attends to (paper Fig. 6), and which tokens migrate.

Shapes: B images, (H, W) their grid of patches, N = H * W tokens, h heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.formatting import number_of
from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.acceleration.stage3 import departures, run_blocks
from itpn_ray.models.config import PATCH
from itpn_ray.models.layers.blocks import Block
from itpn_ray.models.networks.autoencoder import PixelAutoencoder
from itpn_ray.models.networks.images import normalise_pixels, read_pixels
from itpn_ray.models.trunk.base import Trunk
from itpn_ray.models.weights.config import VisualizeConfig
from itpn_ray.models.weights.files import load_model

Pixels = npt.NDArray[np.uint8]


def visualize(config: VisualizeConfig) -> Path:
    """Draw the map that is asked for, and return the file it is in.

    Raises:
        CheckpointError: the weights cannot be read.
        DataError: the image cannot be read.
        ConfigError: no such block or token.
    """
    trunk = load_model(config.file, key=config.key).body
    size = config.image_size or trunk.config.image_size
    pixels = read_pixels(config.image, size)
    images = normalise_pixels(pixels[None])
    out = Path(config.out)
    if config.show == "migration":
        if not trunk.acceleration.ratio:
            trunk.set_migration(config.migration)
        draw_migration(pixels, migration_map(trunk, images)[0], out)
    else:
        grid = trunk.grid(images)
        query = config.query or (grid[0] // 2, grid[1] // 2)
        weights = attention_map(trunk, images, query, config.block)
        draw_attention(pixels, weights[0].mean(dim=0), query, out)
    return out


@torch.no_grad()
def attention_map(trunk: Trunk, images: Tensor, query: tuple[int, int], block: int = -1) -> Tensor:
    """What a query token of a block of stage 3 attends to, without acceleration.

    Args:
        trunk: any trunk.
        images: (B, 3, H * 16, W * 16).
        query: row and column of the token, in patches.
        block: number of the block; negative counts from the end.

    Returns:
        (B, h, H, W), weights that sum to 1 for each head.

    Raises:
        ConfigError: no such block or token.
    """
    grid, depth = trunk.grid(images), len(trunk.stage3)
    if not (0 <= query[0] < grid[0] and 0 <= query[1] < grid[1]):
        raise ConfigError(
            "query", query, f"the image has {grid[0]} x {grid[1]} patches", "Count from 0"
        )
    if not -depth <= block < depth:
        raise ConfigError(
            "block", block, f"stage 3 has {number_of(depth, 'block')}", "Count from 0"
        )
    _, _, x = trunk.early(images, None, None)
    x = x + trunk.positions(grid)
    index = trunk.pair_index(grid, None)
    # The last one is done by hand below: fused attention keeps no weights to draw.
    *before, last = list(trunk.stage3)[: block % depth + 1]
    for earlier in before:
        x = earlier(x, trunk.pair_bias(earlier, grid, index))
    assert isinstance(last, Block)
    bias = trunk.pair_bias(last, grid, index)
    return _weights(last, x, query[0] * grid[1] + query[1], bias).unflatten(-1, grid)


@torch.no_grad()
def decoder_attention_map(
    autoencoder: PixelAutoencoder, images: Tensor, query: tuple[int, int]
) -> Tensor:
    """What a query token of the decoder's last block attends to, where all patches are visible.

    Args:
        autoencoder: a pixel autoencoder, with a pyramid or without.
        images: (B, 3, H * 16, W * 16).
        query: row and column of the token, in patches.

    Returns:
        (B, h, H, W), weights that sum to 1 for each head.
    """
    grid = autoencoder.trunk.grid(images)
    visible = torch.arange(grid[0] * grid[1], device=images.device).expand(len(images), -1)
    x = autoencoder.decoder_input(autoencoder.encode(images, visible), visible, grid)
    *before, last = list(autoencoder.decoder)
    for earlier in before:
        x = earlier(x)
    assert isinstance(last, Block)
    return _weights(last, x, query[0] * grid[1] + query[1], None).unflatten(-1, grid)


def _weights(block: Block, x: Tensor, token: int, bias: Tensor | None) -> Tensor:
    """How much a token of (B, N, C) reads from each, (B, h, N); `bias` (1 or B, h, N, N)."""
    queries, keys, _ = block.attention.project(block.norm1(x))
    scores = (keys @ queries[:, :, token, :, None])[..., 0] * queries.shape[-1] ** -0.5  # (B, h, N)
    if bias is not None:
        scores = scores + bias[:, :, token]
    return scores.softmax(dim=-1)


@torch.no_grad()
def migration_map(trunk: Trunk, images: Tensor) -> Tensor:
    """After which block of stage 3 each token leaves, (B, H, W) int64; -1 for those that stay.

    Raises:
        ConfigError: no token of the trunk migrates, or they are merged.
    """
    setting: Acceleration = trunk.acceleration
    if not setting.ratio or setting.reduction not in ("migration", "random"):
        raise ConfigError(
            "acceleration", setting, "no token leaves", "Call set_migration with a ratio above 0"
        )
    grid = trunk.grid(images)
    _, _, x = trunk.early(images, None, None)
    plan = trunk.plan(grid)
    whole = [None] * len(trunk.stage3)
    _, state = run_blocks(trunk.stage3, x + trunk.positions(grid), plan, whole, trunk.run)
    return departures(state, plan)


def draw_attention(pixels: Pixels, weights: Tensor, query: tuple[int, int], out: Path) -> None:
    """Draw weights (H, W) over an image (H * 16, W * 16, 3), the query token framed, into `out`."""
    from matplotlib.patches import Rectangle

    figure, (left, right) = _panels(pixels, 2)
    left.add_patch(
        Rectangle(
            (query[1] * PATCH - 0.5, query[0] * PATCH - 0.5),
            PATCH,
            PATCH,
            fill=False,
            edgecolor="red",
            linewidth=2,
        )
    )
    height, width = pixels.shape[:2]
    # Centres of pixels lie at whole numbers, so that edges lie at halves.
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    right.imshow(
        weights.numpy(), cmap="inferno", alpha=0.7, extent=extent, interpolation="bilinear"
    )
    _save(figure, out)


def draw_migration(pixels: Pixels, blocks: Tensor, out: Path) -> None:
    """Draw when tokens left, (H, W), over an image (H * 16, W * 16, 3) into `out`."""
    from matplotlib.ticker import MaxNLocator

    figure, (_, right) = _panels(pixels, 2)
    height, width = pixels.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    # -1 stands for tokens that stay, which are not tinted.
    when = np.ma.masked_less(blocks.numpy(), 0)
    tint = right.imshow(when, cmap="viridis", alpha=0.75, extent=extent, interpolation="nearest")
    bar = figure.colorbar(tint, ax=right, fraction=0.046, pad=0.04)
    bar.set_label("left after block")
    bar.locator = MaxNLocator(integer=True)
    bar.update_ticks()
    _save(figure, out)


def _panels(pixels: Pixels, count: int) -> tuple[Any, Any]:
    """A figure with the image in each of `count` panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * count, 4), layout="constrained")
    panels = figure.subplots(1, count)
    for panel in panels:
        panel.imshow(pixels)
        panel.set_axis_off()
    return figure, panels


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
