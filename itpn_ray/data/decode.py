"""Encoded pictures -> uint8 crops of one size.

Pictures lie in memory as height x width x channel ("channels last") from the decoder to the
batch: PyTorch's uint8 resize reads that layout without unpacking it first.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg


def decode_rgb(image: npt.NDArray[np.uint8]) -> Tensor:
    """Decode a JPEG, (bytes,) uint8, to (3, H, W) uint8 RGB, channels last in memory.

    Raises:
        RuntimeError: the bytes are no JPEG that can be decoded.
    """
    # A copy, because torch wants to own memory it may write to: 0.01 ms of 1 ms.
    return cast(Tensor, decode_jpeg(torch.from_numpy(image.copy()), mode=ImageReadMode.RGB))


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """Resize (3, H, W) uint8 to (3, height, width), bicubic with antialiasing."""
    batch = picture[None].contiguous(memory_format=torch.channels_last)
    return interpolate(batch, (height, width), mode="bicubic", antialias=True)[0]


def crop_resize(picture: Tensor, box: tuple[int, int, int, int], size: int, flip: bool) -> Tensor:
    """Crop (3, H, W) uint8 to a box (top, left, height, width) and resize to (3, size, size)."""
    top, left, height, width = box
    crop = resize(picture[:, top : top + height, left : left + width], size, size)
    return crop.flip(-1) if flip else crop


def centre_crop(picture: Tensor, size: int, share: float) -> Tensor:
    """Resize the shorter side of (3, H, W) to ``size / share`` and cut out the centre.

    Returns:
        (3, size, size) uint8, as torchvision's Resize and CenterCrop give it.
    """
    _, height, width = picture.shape
    shorter = int(size / share)
    if height <= width:
        new_height, new_width = shorter, int(shorter * width / height)
    else:
        new_height, new_width = int(shorter * height / width), shorter
    resized = resize(picture, new_height, new_width)
    top = round((new_height - size) / 2)
    left = round((new_width - size) / 2)
    return resized[:, top : top + size, left : left + size]
