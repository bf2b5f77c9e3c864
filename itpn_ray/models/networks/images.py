"""Images from files as the networks want them, for looking at networks rather than training."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from itpn_ray.errors import DataError
from itpn_ray.models.config import IMAGENET_MEAN, IMAGENET_STD


def read_pixels(path: str | os.PathLike[str], size: int) -> npt.NDArray[np.uint8]:
    """The middle square of an image, upright, (size, size, 3) uint8 RGB.

    Raises:
        DataError: no such file, or no image.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
            return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(
            str(path), None, f"not an image that can be read ({error})", "Give another"
        ) from error


def normalise_pixels(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """(B, S, S, 3) uint8 as (B, 3, S, S) float32 with ImageNet's mean 0 and variance 1."""
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def read_images(paths: Sequence[str | os.PathLike[str]], size: int) -> Tensor:
    """Images from files as network input, (B, 3, size, size) float32."""
    return normalise_pixels(np.stack([read_pixels(path, size) for path in paths]))
