"""Images from anywhere as the networks want them: what evaluation does, for one image at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from itpn_ray.data.loading.decode import centre_crop, decode_rgb
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.reencode import ImageRules, RejectedError, reencode, to_rgb
from itpn_ray.data.transforms.detection_views import padded_sides, whole_view
from itpn_ray.data.transforms.on_device import normalise, normalise_views
from itpn_ray.errors import DataError

AnyImage = str | os.PathLike[str] | Image.Image | Tensor
"""A file, an opened image, or uint8 RGB (3, H, W)."""

# The rules of preparation, so that files are read as those of data sets are.
_RULES = ImageRules(max_side=None, quality=95, max_pixels=PrepareConfig.max_pixels)


@dataclass(frozen=True, kw_only=True)
class CentreCrop:
    """The centre of an image, as classifiers and trunks are evaluated.

    Attributes:
        image_size: S, side of the crop, pixels.
        crop_fraction: side of the crop over the shorter side of the resized image.
    """

    image_size: int
    crop_fraction: float

    def __call__(self, image: AnyImage) -> Tensor:
        """Map an image to (3, S, S) float32, normalised.

        Raises:
            DataError: no image, or one that cannot be read.
        """
        crop = centre_crop(to_pixels(image), self.image_size, self.crop_fraction)
        return normalise(crop[None])[0]


@dataclass(frozen=True, kw_only=True)
class WholeView:
    """A whole image, as detectors are evaluated.

    Attributes:
        short_side: of the view, pixels, unless its longer side gets too long.
        long_side: longest side of the view, pixels.
    """

    short_side: int
    long_side: int

    def __call__(self, image: AnyImage) -> tuple[Tensor, Tensor]:
        """Map an image to what `Detector.detect` takes.

        Returns:
            (1, 3, H, W) float32, normalised, zero beyond the view; and (1, 2) int64, height and
            width of the view, in whose pixels boxes are found.

        Raises:
            DataError: no image, or one that cannot be read.
        """
        pixels = to_pixels(image)
        _, height, width = pixels.shape
        view = whole_view(width, height, self.short_side, self.long_side).image(pixels)
        sizes = torch.tensor([view.shape[1:]])
        images = torch.zeros(1, 3, *padded_sides(sizes.numpy()), dtype=torch.uint8)
        images[0, :, : view.shape[1], : view.shape[2]] = view
        return normalise_views(images, sizes), sizes


def to_pixels(image: AnyImage) -> Tensor:
    """An image as uint8 RGB (3, H, W), upright, transparent parts over white.

    Raises:
        DataError: no image, or one that cannot be read.
    """
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise DataError(
                "image",
                f"{image.dtype} {tuple(image.shape)}",
                "is no uint8 tensor of shape (3, H, W)",
                "Give one of RGB values from 0 to 255",
            )
        return image
    try:
        if isinstance(image, Image.Image):
            upright = to_rgb(ImageOps.exif_transpose(image)).convert("RGB")
            return torch.from_numpy(np.array(upright)).permute(2, 0, 1)
        stored = reencode(Path(image).read_bytes(), _RULES)
        return decode_rgb(np.frombuffer(stored.data, dtype=np.uint8))
    except (OSError, RuntimeError, RejectedError, Image.DecompressionBombError) as error:
        subject = "image" if isinstance(image, Image.Image) else str(image)
        raise DataError(
            subject, None, f"cannot be read as an image ({error})", "Give another"
        ) from error
