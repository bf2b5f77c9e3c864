"""Photometric distortion of segmentation and detection (SSD, Liu et al., 2016, 3.6).

Brightness, then contrast, saturation and hue, or contrast last; each with its own probability.
Every draw is a function of (seed, epoch, sample id). Shapes: images (B, 3, H, W), RGB in 0..255.
"""

from __future__ import annotations

import torch
from torch import Tensor

from itpn_ray.rng import Stream, uniform_torch

BRIGHTNESS = 32.0
"""Most that is added, of 255."""
CONTRAST = SATURATION = (0.5, 1.5)
"""Smallest and largest factor."""
HUE = 0.1
"""Most that the hue turns, of a whole turn."""


def distort(images: Tensor, ids: Tensor, *, seed: int, epoch: int, probability: float) -> Tensor:
    """Change the colours of images.

    Args:
        images: uint8 or float (B, 3, H, W).
        ids: (B,) int64 sample ids.
        seed: the run's seed.
        epoch: the epoch.
        probability: of each of the four changes.

    Returns:
        (B, 3, H, W) float32 in 0..255.
    """
    # (B, 9, 1, 1, 1): four decisions, whether contrast comes last, four amounts.
    draws = uniform_torch(seed, epoch, ids, Stream.COLOUR, 9)[:, :, None, None, None]
    used = draws[:, :4] < probability  # (B, 4, 1, 1, 1)
    last = draws[:, 4] < 0.5  # (B, 1, 1, 1)
    amounts = draws[:, 5:]
    brightness = torch.where(used[:, 0], (2 * amounts[:, 0] - 1) * BRIGHTNESS, 0.0)
    contrast = torch.where(used[:, 1], _between(CONTRAST, amounts[:, 1]), 1.0)
    saturation = torch.where(used[:, 2], _between(SATURATION, amounts[:, 2]), 1.0)
    hue = torch.where(used[:, 3], (2 * amounts[:, 3] - 1) * HUE, 0.0)
    images = (images.float() + brightness).clamp(0, 255)
    images = torch.where(last, images, (images * contrast).clamp(0, 255))
    images = _turn(images, saturation, hue)
    return torch.where(last, (images * contrast).clamp(0, 255), images)


def _between(limits: tuple[float, float], share: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * share


def _turn(images: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Scale the saturation, at most to full, and turn the hue of RGB images, by way of HSV."""
    value, brightest = images.max(1, keepdim=True)  # (B, 1, H, W)
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    # Grey has no hue: any will do, but not a division by zero.
    safe = chroma.clamp(min=1e-6)
    # The hue in sixths of a turn, by the brightest channel.
    sixth = torch.where(
        brightest == 0,
        (green - blue) / safe,
        torch.where(brightest == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * hue
    chroma = torch.minimum(chroma * saturation, value)
    # Back by V - C max(0, min(k, 4 - k, 1)) with k = (n + 6 H) mod 6; n = 5, 3, 1 for R, G, B.
    steps = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    place = (steps + sixth) % 6
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)
