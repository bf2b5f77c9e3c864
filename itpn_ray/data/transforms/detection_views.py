"""Views for detection: one crop, one resize and a flip, for image, boxes and masks alike.

A chain of resizes and crops is worked out on paper first and done to the pixels once, so that a
image is interpolated a single time and every view can be undone. Boxes are (x1, y1, x2, y2) in
pixels, (0, 0) the upper left corner of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.data.loading.decode import resize
from itpn_ray.rng import Stream, uniform

Draws = npt.NDArray[np.float64]
# Levels have strides 4 to 64: 32 divides evenly on all but the last, which 64 gives one cell.
PAD_TO = 32
"""What sides of a batch's images are multiples of, pixels."""
_LEAST = 64  # of these sides, pixels


@dataclass(frozen=True, kw_only=True)
class View:
    """A part of an image, resized and perhaps mirrored.

    Attributes:
        top: first row of the part, pixels of the image.
        left: first column.
        height: rows of the part.
        width: columns.
        out_height: rows of the view.
        out_width: columns of the view.
        flip: mirrored left to right.
    """

    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int
    flip: bool

    def image(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, out_height, out_width) uint8."""
        part = self._part(image)
        view = resize(part, self.out_height, self.out_width)
        return view.flip(-1) if self.flip else view

    def masks(self, masks: Tensor) -> Tensor:
        """(n, H, W) bool -> (n, out_height, out_width) bool."""
        part = self._part(masks).to(torch.uint8)[:, None]  # (n, 1, h, w)
        # Nearest keeps masks binary; "exact" samples at cell centres, as boxes are scaled.
        view = interpolate(part, (self.out_height, self.out_width), mode="nearest-exact")
        view = view[:, 0].bool()
        return view.flip(-1) if self.flip else view

    def boxes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 4) boxes of the image -> (n, 4) boxes of the view, cut at its border.

        Returns:
            The boxes, and (n,) bool: which have something left.
        """
        scale = boxes.new_tensor([self.out_width / self.width, self.out_height / self.height])
        corners = boxes.reshape(-1, 2, 2) - boxes.new_tensor([self.left, self.top])  # (n, 2, xy)
        corners = corners * scale
        if self.flip:
            # Mirrored, x1 and x2 change places.
            corners[..., 0] = self.out_width - corners[..., 0].flip(-1)
        corners[..., 0].clamp_(0, self.out_width)
        corners[..., 1].clamp_(0, self.out_height)
        kept = (corners[:, 1] > corners[:, 0]).all(-1)
        return corners.reshape(-1, 4), kept

    def undo_boxes(self, boxes: Tensor) -> Tensor:
        """(n, 4) boxes of the view -> (n, 4) boxes of the image."""
        corners = boxes.reshape(-1, 2, 2).clone()  # (n, 2, xy)
        if self.flip:
            corners[..., 0] = self.out_width - corners[..., 0].flip(-1)
        scale = boxes.new_tensor([self.width / self.out_width, self.height / self.out_height])
        return (corners * scale + boxes.new_tensor([self.left, self.top])).reshape(-1, 4)

    def _part(self, image: Tensor) -> Tensor:
        rows = slice(self.top, self.top + self.height)
        return image[:, rows, self.left : self.left + self.width]


def resized(width: int, height: int, short_side: int, long_side: int) -> tuple[int, int]:
    """(width, height) with the shorter side at ``short_side`` unless the longer gets too long."""
    scale = min(short_side / min(width, height), long_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def whole_view(width: int, height: int, short_side: int, long_side: int) -> View:
    """The image as a detector is tested: whole, resized, not mirrored."""
    return _resized_view(0, 0, width, height, (short_side, long_side), flip=False)


def padded_sides(sizes: npt.NDArray[np.int64], multiple: int = PAD_TO) -> tuple[int, int]:
    """Height and width of a batch's images, from those of its views (B, 2).

    They are multiples of ``multiple``, itself one of 32.
    """
    height, width = np.maximum(_LEAST, -(-sizes.max(0) // multiple) * multiple).tolist()
    return height, width


def training_view(width: int, height: int, draws: Draws, config: DetectionAugmentConfig) -> View:
    """Several sizes, with a crop before the resize in some views.

    Args:
        width: of the image, pixels.
        height: likewise.
        draws: (8,) uniform numbers.
        config: sizes and probabilities.
    """
    cropped, measured, crop_w, crop_h, x, y, short, mirrored = draws.tolist()
    top = left = 0
    if cropped < config.crop:
        # The crop is drawn at a first size, and cut from the image itself.
        first_w, first_h = resized(
            width, height, _choose(config.crop_short_sides, measured), config.long_side
        )
        part_w = _crop_side(crop_w, first_w, width, config.crop_size)
        part_h = _crop_side(crop_h, first_h, height, config.crop_size)
        # Every place at which the crop fits is as likely, the last one included.
        left, top = int(x * (width - part_w + 1)), int(y * (height - part_h + 1))
        width, height = part_w, part_h
    sides = _choose(config.short_sides, short), config.long_side
    return _resized_view(top, left, width, height, sides, flip=mirrored < config.flip)


def training_views(
    widths: npt.ArrayLike,
    heights: npt.ArrayLike,
    ids: npt.NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    config: DetectionAugmentConfig,
) -> list[View]:
    """`training_view` for each of B images, (B,) sizes and sample ids."""
    draws = uniform(seed, epoch, ids, Stream.SIZE, 8)  # (B, 8)
    sizes = zip(np.asarray(widths).tolist(), np.asarray(heights).tolist(), strict=True)
    return [training_view(*size, row, config) for size, row in zip(sizes, draws, strict=True)]


def _resized_view(
    top: int, left: int, width: int, height: int, sides: tuple[int, int], *, flip: bool
) -> View:
    out_width, out_height = resized(width, height, *sides)
    return View(
        top=top,
        left=left,
        height=height,
        width=width,
        out_height=out_height,
        out_width=out_width,
        flip=flip,
    )


def _choose(sides: tuple[int, ...], draw: float) -> int:
    return sides[int(draw * len(sides))]


def _crop_side(draw: float, resized_side: int, side: int, limits: tuple[int, int]) -> int:
    """Side of a crop in pixels of the image, drawn within the limits of the resized one."""
    low, high = min(limits[0], resized_side), min(limits[1], resized_side)
    # Both limits can be drawn.
    drawn = low + int(draw * (high - low + 1))
    return min(side, max(1, round(drawn * side / resized_side)))
