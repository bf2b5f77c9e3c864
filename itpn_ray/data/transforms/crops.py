"""Crop boxes and flips of a whole batch, computed from draws before an image is decoded.

Boxes are (B, 4) int64 rows of (top, left, height, width) in pixels of the stored image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from itpn_ray.rng import Stream, uniform

Ints = npt.NDArray[np.int64]

# As torchvision; all are drawn at once, so that the number of draws is the same for each image.
_ATTEMPTS = 10
_RATIO = (3 / 4, 4 / 3)  # smallest and largest width/height


def random_resized_crops(
    widths: npt.ArrayLike,
    heights: npt.ArrayLike,
    ids: Ints,
    *,
    seed: int,
    epoch: int,
    min_scale: float,
) -> Ints:
    """Random crops of the Inception kind, as torchvision's RandomResizedCrop chooses them.

    The area is uniform in [min_scale, 1] (fractions of the image), the logarithm of width/height
    is uniform in that of [3/4, 4/3]; the first of ten attempts that fits is taken, else the
    largest centred crop whose ratio is allowed (Szegedy et al., "Going deeper with convolutions",
    2015).

    Args:
        widths: (B,) pixels.
        heights: (B,) pixels.
        ids: (B,) sample ids.
        seed: the run's seed.
        epoch: the epoch.
        min_scale: smallest area, fraction of the image.

    Returns:
        (B, 4) int64 (top, left, height, width).
    """
    width = np.asarray(widths, np.int64)
    height = np.asarray(heights, np.int64)
    # Areas, ratios, and one number each for top and left.
    draws = uniform(seed, epoch, ids, Stream.CROP, 2 * _ATTEMPTS + 2)  # (B, 22)
    area = (width * height)[:, None] * (min_scale + draws[:, :_ATTEMPTS] * (1 - min_scale))
    low, high = np.log(_RATIO)
    aspect = np.exp(low + draws[:, _ATTEMPTS : 2 * _ATTEMPTS] * (high - low))  # (B, attempts)
    tried_w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    tried_h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (
        (tried_w > 0) & (tried_w <= width[:, None]) & (tried_h > 0) & (tried_h <= height[:, None])
    )
    first = np.argmax(fits, axis=1)  # (B,) 0 where none fits
    rows = np.arange(len(ids))
    largest_w, largest_h = _largest(width, height)
    any_fits = fits.any(axis=1)
    crop_w = np.where(any_fits, tried_w[rows, first], largest_w)
    crop_h = np.where(any_fits, tried_h[rows, first], largest_h)
    # Floor of a uniform number times the count gives each place the same chance.
    top = np.floor(draws[:, -2] * (height - crop_h + 1)).astype(np.int64)
    left = np.floor(draws[:, -1] * (width - crop_w + 1)).astype(np.int64)
    top = np.where(any_fits, top, (height - crop_h) // 2)
    left = np.where(any_fits, left, (width - crop_w) // 2)
    return np.stack([top, left, crop_h, crop_w], axis=1)


def random_flips(ids: Ints, *, seed: int, epoch: int, probability: float) -> npt.NDArray[np.bool_]:
    """Which images are mirrored left to right, (B,) bool."""
    return uniform(seed, epoch, ids, Stream.FLIP, 1)[:, 0] < probability


def _largest(width: Ints, height: Ints) -> tuple[Ints, Ints]:
    """Width and height of the largest crop whose width/height is allowed."""
    crop_w = np.minimum(width, np.rint(height * _RATIO[1])).astype(np.int64)
    crop_h = np.minimum(height, np.rint(width / _RATIO[0])).astype(np.int64)
    # An image one pixel high rounds to a width of 0.
    return np.maximum(crop_w, 1), np.maximum(crop_h, 1)
