"""Encoded images -> uint8 crops of one size.

Images lie in memory as height x width x channel ("channels last") from the decoder to the
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

from itpn_ray.data.loading import region_decoder

Box = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, pixels."""


def decode_rgb(image: npt.NDArray[np.uint8]) -> Tensor:
    """Decode a JPEG, (bytes,) uint8, to (3, H, W) uint8 RGB, channels last in memory.

    Raises:
        RuntimeError: the bytes are no JPEG that can be decoded.
    """
    # A copy, because torch wants to own memory it may write to: 0.01 ms of 1 ms.
    return cast(Tensor, decode_jpeg(torch.from_numpy(image.copy()), mode=ImageReadMode.RGB))


def decode_box(image: npt.NDArray[np.uint8], box: Box) -> tuple[tuple[int, int], Tensor]:
    """Decode a part of a JPEG, (bytes,) uint8: the pixels of ``decode_rgb``, cut out.

    Returns:
        Height and width of the whole image; and (3, height, width) uint8 RGB, channels last in
        memory.

    Raises:
        RuntimeError: the bytes are no JPEG that can be decoded.
    """
    if region_decoder.installed():
        size, part = region_decoder.decode_part(image, box)
        if part is not None:
            return size, torch.from_numpy(part).permute(2, 0, 1)  # (h, w, 3) -> (3, h, w)
    whole = decode_rgb(image)  # which tells what is wrong with broken data
    top, left, height, width = box
    part_of_whole = whole[:, top : top + height, left : left + width]
    return (whole.shape[1], whole.shape[2]), part_of_whole


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize (3, H, W) uint8 to (3, height, width), bicubic with antialiasing."""
    # (3, H, W) -> (1, H, W, 3) -> (1, 3, H, W): image[None] has strides in which PyTorch does not
    # see that channels lie last, and it would unpack them.
    batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    return interpolate(batch, (height, width), mode="bicubic", antialias=True)[0]


def resize_square(crop: Tensor, size: int, flip: bool) -> Tensor:
    """Resize (3, h, w) uint8 to (3, size, size), mirrored if ``flip``."""
    square = resize(crop, size, size)
    return square.flip(-1) if flip else square


def centre_crop(image: Tensor, size: int, fraction: float) -> Tensor:
    """Resize the shorter side of (3, H, W) to ``size / fraction`` and cut out the centre.

    Returns:
        (3, size, size) uint8, as torchvision's Resize and CenterCrop give it.
    """
    _, height, width = image.shape
    shorter = int(size / fraction)
    if height <= width:
        new_height, new_width = shorter, int(shorter * width / height)
    else:
        new_height, new_width = int(shorter * height / width), shorter
    resized = resize(image, new_height, new_width)
    # torchvision rounds here and truncates above; other pixels would be another accuracy.
    top = round((new_height - size) / 2)
    left = round((new_width - size) / 2)
    return resized[:, top : top + size, left : left + size]
