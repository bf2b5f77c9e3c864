"""Whole images of any size: logits window by window, and the classes of pixels at another size.

Memory: a view of h x w pixels takes K logits a pixel, whatever the size of the image it was made
from; logits at that size are only ever there for a band of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.errors import ConfigError

MULTIPLE = 32
"""Of the sides of what the network sees, pixels."""
BAND = 1 << 26
"""Logits that a band of rows may have."""

Classify = Callable[[Tensor], Tensor]
"""Maps (B, 3, H, W) to logits (B, K, h, w) of the same extent."""


@dataclass(frozen=True, kw_only=True)
class Viewing:
    """How a whole image is looked at.

    Raises:
        ConfigError: windows that leave pixels out, or no sizes.
    """

    short_side: int = 512
    """Shorter side of the view, pixels, unless its longer one gets too long."""
    long_side: int = 2048
    """Longest side of the view, pixels."""
    window: int = 512
    """Side of the windows, pixels; 0: the whole view at once."""
    stride: int = 341
    """Pixels from window to window."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes at which the view is seen, over its own."""
    mirror: bool = False
    """See each of them mirrored too."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))  # JSON has lists
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError("scales", self.scales, "are no sizes", "Use such as 0.5 1 1.5")
        if self.window and not 0 < self.stride <= self.window:
            raise ConfigError(
                "stride", self.stride, "leaves pixels out", f"Use 1 to {self.window}, the window"
            )


def look(
    network: Classify,
    image: Tensor,
    num_classes: int,
    viewing: Viewing,
    likelihood: Callable[[Tensor], Tensor],
) -> Tensor:
    """Scores of a view: those of `slide`, or the mean likelihood of all its sizes and mirrorings.

    Other sizes are made of the view, not of the stored image.

    Args:
        network: see `slide`.
        image: (1, 3, H, W) float, normalised.
        num_classes: K.
        viewing: windows, sizes, mirroring.
        likelihood: maps scores (K, h, w) to numbers that can be averaged over sizes.

    Returns:
        (K, H, W) float32.
    """
    height, width = image.shape[2:]
    turns = (False, True) if viewing.mirror else (False,)
    looks = [(scale, mirrored) for scale in viewing.scales for mirrored in turns]
    # One look needs no mean: its scores stay as they are.
    if looks == [(1.0, False)]:
        return slide(network, image, num_classes, viewing)
    total = image.new_zeros(num_classes, height, width, dtype=torch.float32)
    for scale, mirrored in looks:
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
        seen = _resized(image[0], *size)[None]
        scores = slide(network, seen.flip(3) if mirrored else seen, num_classes, viewing)
        found = likelihood(scores.flip(2) if mirrored else scores)
        total += _resized(found, height, width)
    return total.div_(len(looks))


def _resized(scores: Tensor, height: int, width: int) -> Tensor:
    """Scores (K, h, w) at another size."""
    return F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)[0]


def slide(network: Classify, image: Tensor, num_classes: int, viewing: Viewing) -> Tensor:
    """Logits of a view, in windows the mean of all that see a pixel.

    The last window of a row or column is moved back to end at the border.

    Args:
        network: gives the logits of images whose sides are multiples of 32.
        image: (1, 3, H, W) float, normalised.
        num_classes: K.
        viewing: windows.

    Returns:
        (K, H, W) float32.
    """
    height, width = image.shape[2:]
    side = viewing.window or max(height, width)
    total = image.new_zeros(num_classes, height, width, dtype=torch.float32)
    seen = image.new_zeros(height, width, dtype=torch.float32)
    for top in starts(height, side, viewing.stride):
        for left in starts(width, side, viewing.stride):
            place = (slice(top, top + side), slice(left, left + side))
            total[:, *place] += _logits(network, image[:, :, *place])
            seen[place] += 1
    # What several windows see gets their mean.
    return total.div_(seen)


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin, so that they cover a length and none lies beyond it."""
    last = max(0, length - window)
    # The last window ends with the image.
    return [min(start, last) for start in range(0, last + stride, stride)] if last else [0]


def pixel_classes(logits: Tensor, height: int, width: int) -> Tensor:
    """The likeliest class of each pixel at another size: resized first, then compared.

    Args:
        logits: (K, h, w).
        height: rows of the result.
        width: its columns.

    Returns:
        (height, width) int64: what bilinear resizing of all logits at once would give.
    """
    last = logits.shape[1] - 1
    rows = max(1, BAND // (len(logits) * width))
    bands = []
    for ys in torch.arange(height, device=logits.device).split(rows):
        # Where centres of the new rows lie among the old ones (align_corners=False).
        centres = ((ys + 0.5) * (logits.shape[1] / height) - 0.5).clamp(0, last)  # (rows,)
        above = centres.long()
        share = (centres - above)[:, None]
        below = (above + 1).clamp(max=last)
        band = torch.lerp(logits[:, above], logits[:, below], share.to(logits.dtype))
        wide = F.interpolate(
            band[None], (len(ys), width), mode="bilinear", align_corners=False
        )  # (1, K, rows, width)
        bands.append(wide[0].argmax(0))
    return torch.cat(bands)


def _logits(network: Classify, image: Tensor) -> Tensor:
    """Logits (K, H, W) float32 of an image (1, 3, H, W) of any size."""
    height, width = image.shape[2:]
    tall, wide = (-(-side // MULTIPLE) * MULTIPLE for side in (height, width))
    # With zeros, as views are padded in training.
    padded = F.pad(image, (0, wide - width, 0, tall - height))
    logits = network(padded).float()
    full = F.interpolate(logits, (tall, wide), mode="bilinear", align_corners=False)
    return full[0, :, :height, :width]
