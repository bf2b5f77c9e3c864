"""Images of what a masked autoencoder sees and makes of it: input, masked, reconstruction.

Shapes: B images, L = (H / p) * (W / p) patches of p x p pixels in row-major order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from itpn_ray.models.config import IMAGENET_MEAN, IMAGENET_STD

_GREY = 0.5
_GAP = 4
_MANY = 4


def to_patches(images: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) -> (B, L, p * p * 3), each patch's pixels row by row, colour last."""
    batch, _, height, width = images.shape
    # (B, 3, h, p, w, p) -> (B, h, w, p, p, 3)
    tiles = images.reshape(batch, 3, height // patch, patch, width // patch, patch)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * 3)


def from_patches(patches: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """(B, L, p * p * 3) -> (B, 3, H, W) of size (H, W): undoes `to_patches`."""
    batch, (height, width) = patches.shape[0], size
    # (B, h, w, p, p, 3) -> (B, 3, h, p, w, p)
    tiles = patches.reshape(batch, height // patch, width // patch, patch, patch, 3)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, height, width)


def reconstruct(images: Tensor, mask: Tensor, pred: Tensor, *, patch: int = 16) -> Tensor:
    """Put the predicted patches where the image was masked.

    The network predicts each patch normalised by its own mean and variance, so the true patch's
    are what brings the prediction back to pixels.

    Args:
        images: (B, 3, H, W) the network's input.
        mask: (B, L) bool, True = masked.
        pred: (B, L, p * p * 3) prediction of normalised pixels.
        patch: p.

    Returns:
        (B, 3, H, W): visible patches as they were, masked ones as predicted.
    """
    target = to_patches(images.float(), patch)
    # As `normalise_patches` has it, epsilon included.
    scale = (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    guess = pred.float() * scale + target.mean(dim=-1, keepdim=True)
    return from_patches(torch.where(mask[..., None], guess, target), _size(images), patch)


def reconstruction_grid(
    images: Tensor,
    mask: Tensor,
    pred: Tensor,
    path: str | Path,
    *,
    patch: int = 16,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Path:
    """Write the grid as PNG: a row an image, of input, masked input and reconstruction.

    Args:
        images: (B, 3, H, W) the network's input, normalised by ``mean`` and ``std``.
        mask: (B, L) bool, True = masked.
        pred: (B, L, p * p * 3) prediction of normalised pixels.
        path: the PNG to write.
        patch: p.
        mean: channel means of the input's normalisation.
        std: channel standard deviations of the input's normalisation.

    Returns:
        The path written.
    """
    images, mask, pred = images.detach().cpu().float(), mask.cpu(), pred.detach().cpu()
    made = reconstruct(images, mask, pred, patch=patch)
    channel_mean = torch.as_tensor(mean).view(1, 3, 1, 1)
    channel_std = torch.as_tensor(std).view(1, 3, 1, 1)
    real, made = images * channel_std + channel_mean, made * channel_std + channel_mean
    hidden = from_patches(
        torch.where(mask[..., None], _GREY, to_patches(real, patch)), _size(real), patch
    )
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_grid([real, hidden, made]).numpy()).save(out)
    return out


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _grid(columns: Sequence[Tensor]) -> Tensor:
    """Columns of (B, 3, H, W) in [0, 1] -> one (rows, columns, 3) uint8 image on white.

    Two images share a row where there are many, with a wider gap between them.
    """
    cells = torch.stack([column.clamp(0, 1) for column in columns], dim=1)  # (B, n, 3, H, W)
    padded = torch.nn.functional.pad(cells, (0, _GAP, 0, _GAP), value=1.0)
    batch, count, _, height, width = padded.shape
    # (B, n, 3, H, W) -> (B, 3, H, n * W)
    strips = padded.permute(0, 2, 3, 1, 4).reshape(batch, 3, height, count * width)
    # Two images beside each other where there are many, or the sheet would get too tall.
    beside = 2 if batch >= _MANY and batch % 2 == 0 else 1
    strips = torch.nn.functional.pad(strips, (0, (beside - 1) * 2 * _GAP), value=1.0)
    # (B, 3, H, w) -> (B / k * H, k * w, 3), k images beside each other
    rows = strips.reshape(batch // beside, beside, 3, height, -1).permute(0, 3, 1, 4, 2)
    sheet = rows.reshape(batch // beside * height, -1, 3)
    margin = _GAP * (3 if beside == 2 else 1)
    return (sheet[:-_GAP, :-margin] * 255).round().to(torch.uint8)
