"""Views for segmentation: one crop, one resize and a flip, for an image and its mask alike.

As in detection, the resize and the crop are worked out on paper first and done to the pixels once.
Masks, (H, W) int16 classes or -1, take the nearest pixel. Pixels count from their centres.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from itpn_ray.data.annotations.class_masks import Mask
from itpn_ray.data.annotations.geometry import nearest
from itpn_ray.data.config import SegmentationAugmentConfig
from itpn_ray.data.transforms.detection_views import View, resized
from itpn_ray.rng import Stream, uniform

CROPS = 10
"""Crops that are drawn until one keeps to the rule of the largest class."""
# Ratio, flip, and two for the place of each crop.
_DRAWS = 2 + 2 * CROPS


def view_mask(view: View, mask: Mask) -> Mask:
    """The mask (H, W) of an image -> that of its view, (out_height, out_width)."""
    part = mask[view.top : view.top + view.height, view.left : view.left + view.width]
    seen = nearest(part, view.out_width, view.out_height)
    return seen[:, ::-1] if view.flip else seen


def training_crop(
    mask: Mask, sample_id: int, *, seed: int, epoch: int, config: SegmentationAugmentConfig
) -> View:
    """The part of a training image that is seen, at a random size.

    Args:
        mask: of the whole image.
        sample_id: the image's.
        seed: the run's seed.
        epoch: the epoch.
        config: sizes and probabilities.
    """
    draws = uniform(seed, epoch, np.array([sample_id]), Stream.SIZE, _DRAWS)[0]
    height, width = mask.shape
    low, high = config.ratio
    ratio = low + (high - low) * draws[0]
    short, long = round(config.short_side * ratio), round(config.long_side * ratio)
    whole_width, whole_height = resized(width, height, max(1, short), max(1, long))
    out_width, out_height = min(whole_width, config.crop_size), min(whole_height, config.crop_size)
    # Back to pixels of the image, from which the crop is cut.
    part_width = min(width, max(1, round(out_width * width / whole_width)))
    part_height = min(height, max(1, round(out_height * height / whole_height)))
    for y, x in draws[2:].reshape(CROPS, 2).tolist():
        view = View(
            top=int(y * (height - part_height + 1)),
            left=int(x * (width - part_width + 1)),
            height=part_height,
            width=part_width,
            out_height=out_height,
            out_width=out_width,
            flip=draws[1] < config.flip,
        )
        if _is_mixed(view_mask(view, mask), config.largest_class):
            break
    return view


def _is_mixed(mask: npt.NDArray[np.int16], largest: float) -> bool:
    """Whether no class has more than a share of the labelled pixels, which there must be."""
    # minlength: a mask without a labelled pixel still has a maximum, 0.
    counts = np.bincount(mask[mask >= 0].astype(np.int64), minlength=1)
    return largest == 1.0 or 0 < int(counts.max()) <= largest * int(counts.sum())
