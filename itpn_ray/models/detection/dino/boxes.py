"""Boxes as DINO has them: (x, y, width, height), the centre first, as shares of the valid part.

A batch's images are padded to one canvas; what a box is a share of is its own image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_convert

EDGE = 1e-3  # a share this close to 0 or 1 counts as this far from it before it becomes a logit


def to_shares(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, M, 4) as (x1, y1, x2, y2) in pixels to (x, y, width, height) in shares.

    Args:
        boxes: (B, M, 4) float.
        sizes: (B, 2) int64, height and width of each image's valid part.
    """
    return box_convert(boxes / _scales(sizes, boxes), "xyxy", "cxcywh")


def to_pixels(boxes: Tensor, sizes: Tensor) -> Tensor:
    """The inverse of `to_shares`, cut at the border of the valid part."""
    scales = _scales(sizes, boxes)
    return torch.minimum(corners(boxes) * scales, scales).clamp(min=0)


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) boxes (x, y, width, height) to (x1, y1, x2, y2)."""
    return box_convert(boxes, "cxcywh", "xyxy")


def logit(shares: Tensor) -> Tensor:
    """The inverse of the sigmoid, finite everywhere."""
    return torch.logit(shares, eps=EDGE)


def sine_code(boxes: Tensor, width: int) -> Tensor:
    """Sine codes of boxes, (B, Q, 4) to (B, Q, 2 * width): `width / 2` numbers a coordinate.

    Ordered y, x, width, height; wavelengths grow to 10000 (DAB-DETR, eq. 4, as DINO uses it).
    """
    half = width // 2
    # In pairs, for a sine and a cosine share each wavelength.
    octaves = torch.arange(half, device=boxes.device, dtype=boxes.dtype) // 2 * 2 / half
    # y before x, as the authors' code has it.
    angles = 2 * math.pi * boxes[..., [1, 0, 2, 3], None] / 10000**octaves  # (B, Q, 4, half)
    codes = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1)
    return codes.flatten(-3)  # (B, Q, 4, half / 2, 2) -> (B, Q, 2 * width)


def _scales(sizes: Tensor, boxes: Tensor) -> Tensor:
    """(B, 1, 4): width, height, width, height of each image's valid part."""
    # (B, 2) height, width -> (B, 1, 4) width, height, width, height.
    return sizes.flip(-1).repeat(1, 2)[:, None].to(boxes)
