"""Which patches are hidden: a function of (seed, epoch, sample id)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.rng import Stream, uniform_torch


def visible_count(tokens: int, ratio: float) -> int:
    """How many of ``tokens`` patches stay visible at a mask ratio (as MAE rounds it).

    Raises:
        ConfigError: no patch would be hidden, or none would be visible.
    """
    # Cut off, not rounded, as MAE does.
    visible = int(tokens * (1.0 - ratio))
    if visible == 0 or visible == tokens:
        what = "visible" if visible == 0 else "hidden"
        raise ConfigError(
            "task.mask_ratio",
            ratio,
            f"leaves none of the {tokens} patches {what}",
            "Use larger images (--model.image-size) or a ratio nearer to one half",
        )
    return visible


def hidden_patches(
    *, seed: int, epoch: int, image_size: int, ratio: float = 0.75
) -> Callable[[NDArray[np.int64]], NDArray[np.bool_]]:
    """From (B,) sample ids to (B, L) hidden patches, True where hidden, as :func:`random_mask`."""
    tokens = (image_size // 16) ** 2

    def hide(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        drawn = random_mask(
            torch.from_numpy(ids), seed=seed, epoch=epoch, tokens=tokens, ratio=ratio
        )
        return drawn[1].numpy()

    return hide


def random_mask(
    sample_ids: Tensor, *, seed: int, epoch: int, tokens: int, ratio: float
) -> tuple[Tensor, Tensor]:
    """Hide the same number of patches of each image, uniformly at random.

    Args:
        sample_ids: (B,) int64; an image's mask does not depend on its batch mates.
        seed: seed of the run.
        epoch: epoch of the draw.
        tokens: L, patches an image.
        ratio: fraction of patches hidden.

    Returns:
        ``visible`` (B, Nv) int64, ascending indices of visible patches, and ``mask`` (B, L) bool,
        True where hidden.
    """
    keep = visible_count(tokens, ratio)
    noise = uniform_torch(seed, epoch, sample_ids, Stream.MASK, tokens)  # (B, L)
    # Stable and sorted again: ties fall alike on every device, and position codes stay in order.
    visible = noise.argsort(dim=1, stable=True)[:, :keep].sort(dim=1).values  # (B, Nv)
    mask = torch.ones_like(noise, dtype=torch.bool).scatter_(1, visible, False)
    return visible, mask
