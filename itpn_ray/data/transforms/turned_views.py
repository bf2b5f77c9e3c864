"""Views for rotated detection: a resize, flips, quarter turns and a rotation, of image and corners.

Flips and quarter turns move pixels and corners exactly; they are undone without a trace. Points are
(x, y) in pixels, (0, 0) the upper left corner of the image. Angles are positive where x turns
towards y, clockwise as images are shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.data.annotations.tiles import TileObjects
from itpn_ray.data.config import RotatedAugmentConfig
from itpn_ray.data.loading.decode import resize
from itpn_ray.data.transforms.detection_targets import ViewObjects
from itpn_ray.data.transforms.detection_views import resized
from itpn_ray.models.rotated.boxes import from_corners
from itpn_ray.rng import Stream, uniform

_LEAST_SIDE = 2.0
"""Pixels of the view; thinner boxes show nothing that could be found (mmrotate)."""


@dataclass(frozen=True, kw_only=True)
class TurnedView:
    """An image, resized, mirrored, turned by quarters and rotated, in this order.

    Attributes:
        width: of the image, pixels.
        height: likewise.
        scaled: width and height after the resize.
        mirrored: left to right.
        upside_down: top to bottom.
        quarters: turns by 90 degrees clockwise, 0 to 3.
        angle: of the rotation about the centre, radians; 0: none.
    """

    width: int
    height: int
    scaled: tuple[int, int]
    mirrored: bool = False
    upside_down: bool = False
    quarters: int = 0
    angle: float = 0.0

    @property
    def out_width(self) -> int:
        """Columns of the view."""
        return self.scaled[self.quarters % 2]

    @property
    def out_height(self) -> int:
        """Rows of the view."""
        return self.scaled[1 - self.quarters % 2]

    def image(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (3, out_height, out_width), uint8; zeros where a rotation shows nothing."""
        view = resize(image, self.scaled[1], self.scaled[0])
        flipped = [axis for axis, flip in ((2, self.mirrored), (1, self.upside_down)) if flip]
        # Negative, as rot90 turns anticlockwise.
        view = view.flip(flipped).rot90(-self.quarters, (1, 2))
        return _rotate(view, self.angle) if self.angle else view

    def points(self, points: Tensor) -> Tensor:
        """Points (..., 2) of the image in the view."""
        width, height = self.scaled
        x = points[..., 0] * (width / self.width)
        y = points[..., 1] * (height / self.height)
        x, y = (width - x if self.mirrored else x), (height - y if self.upside_down else y)
        for _ in range(self.quarters):
            # A quarter turn clockwise: the sides change places too.
            x, y, width, height = height - y, x, height, width
        if self.angle:
            cos, sin = math.cos(self.angle), math.sin(self.angle)
            x, y = x - width / 2, y - height / 2
            x, y = cos * x - sin * y + width / 2, sin * x + cos * y + height / 2
        return torch.stack([x, y], dim=-1)


def whole_tile(width: int, height: int, short_side: int, long_side: int) -> TurnedView:
    """The image as a detector is tested: resized, not turned."""
    scaled = resized(width, height, short_side, long_side)
    return TurnedView(width=width, height=height, scaled=scaled)


def training_tiles(
    widths: npt.ArrayLike,
    heights: npt.ArrayLike,
    ids: npt.NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    config: RotatedAugmentConfig,
) -> list[TurnedView]:
    """The view of each of B images, (B,) sizes and sample ids."""
    draws = uniform(seed, epoch, ids, Stream.TURN, 6)  # (B, 6)
    sizes = zip(np.asarray(widths).tolist(), np.asarray(heights).tolist(), strict=True)
    return [
        _training_tile(width, height, row, config)
        for (width, height), row in zip(sizes, draws.tolist(), strict=True)
    ]


def _training_tile(
    width: int, height: int, draws: list[float], config: RotatedAugmentConfig
) -> TurnedView:
    flips, which, turns, quarters, rotates, angle = draws
    flip = int(which * 3) if flips < config.flip else None
    return TurnedView(
        width=width,
        height=height,
        scaled=resized(width, height, config.side, config.side),
        mirrored=flip in (0, 2),
        upside_down=flip in (1, 2),
        quarters=1 + int(quarters * 3) if turns < config.quarter_turn else 0,
        angle=(2 * angle - 1) * math.pi if rotates < config.rotation else 0.0,
    )


def turned_objects(objects: TileObjects, view: TurnedView) -> ViewObjects:
    """The objects that a view shows, as turned boxes, without those that are not learned from.

    An object whose centre a rotation has turned out of the view is left out, as in mmrotate.
    """
    boxes = from_corners(view.points(torch.from_numpy(objects.corners)))  # (n, 5) float64
    sides = boxes.new_tensor([view.out_width, view.out_height])
    inside = ((boxes[:, :2] >= 0) & (boxes[:, :2] <= sides)).all(dim=1)
    shown = inside & (boxes[:, 3] >= _LEAST_SIDE) & ~torch.from_numpy(objects.crowds)
    return ViewObjects(
        boxes=boxes[shown].float(), labels=torch.from_numpy(objects.classes)[shown], masks=None
    )


def _rotate(view: Tensor, angle: float) -> Tensor:
    """(3, H, W) uint8 rotated about its centre, at the same size; zeros where there is nothing."""
    _, height, width = view.shape
    # Pixel centres, counted from the middle of the view.
    x = torch.arange(width) + 0.5 - width / 2
    y = (torch.arange(height) + 0.5 - height / 2)[:, None]
    cos, sin = math.cos(angle), math.sin(angle)
    # Where each pixel of the result comes from, from -1 to 1 across the view.
    grid = torch.stack(
        [(cos * x + sin * y) * (2 / width), (cos * y - sin * x) * (2 / height)], dim=-1
    )
    rotated = F.grid_sample(view[None].float(), grid[None], align_corners=False)
    return rotated[0].round().to(torch.uint8)
