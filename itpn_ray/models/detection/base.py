"""What every detector takes and gives.

Shapes: B images, M places for objects an image, n detections of one image. Boxes are
(x1, y1, x2, y2) in pixels of the view, (0, 0) the upper left corner of the image; those of a
detector that turns boxes are (x, y, w, h, angle), see `itpn_ray.models.rotated.boxes`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from itpn_ray.models.config import DetectorConfig
from itpn_ray.models.networks.dense_head import DenseHead, Mean

MASK_SIDE = 112  # side of a ground-truth mask, which is cut to its object's box
UNKNOWN = 255  # fills the ground-truth mask of an object that has none
MAX_DETECTIONS = 100  # of upright boxes in an image: what COCO's evaluation looks at

USUAL_VIEW = (800, 1333)
"""Shorter and longest side of an image where a detector's file does not say."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The objects of B training images, padded to M places."""

    boxes: Tensor
    """(B, M, 4) float32, or (B, M, 5)."""
    labels: Tensor
    """(B, M) int64: a class from 0, or -1 where there is no object."""
    masks: Tensor | None
    """(B, M, 112, 112) uint8, 0 or 1: each object's mask, cut to its own box and resized; `UNKNOWN`
    all over where an object has none."""
    seeds: Tensor
    """(B,) int64: every draw for an image is a function of its seed alone."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one image, the surest first."""

    boxes: Tensor
    """(n, 4) float32, within the valid part of the view; or (n, 5)."""
    scores: Tensor
    """(n,) float32 in [0, 1]."""
    labels: Tensor
    """(n,) int64 classes from 0."""
    masks: Tensor | None
    """(n, 28, 28) float32 probabilities, each spread over its own box; None without masks."""


class Detector(DenseHead):
    """A dense trunk with a head that finds objects.

    Args:
        config: the detector.
        dense: the trunk with its pyramid that `config.dense` describes.

    Attributes:
        class_ids: COCO's numbers of the classes, where the weight file says; else empty.
    """

    config: DetectorConfig
    _view: tuple[int, int] = USUAL_VIEW
    class_ids: tuple[int, ...] = ()
    rotated: ClassVar[bool] = False
    """Whether its boxes are turned."""

    def remember(self, metadata: Mapping[str, str]) -> None:
        """See `Network.remember`; of images it is the view's sides that are told."""
        super().remember(metadata)
        short_side, long_side = json.loads(metadata.get("view", json.dumps(USUAL_VIEW)))
        self._view = int(short_side), int(long_side)
        self.class_ids = tuple(map(int, json.loads(metadata.get("class_ids", "[]"))))

    @property
    def view(self) -> tuple[int, int]:
        """See `DenseHead.view`."""
        return self._view

    @abstractmethod
    def losses(
        self, images: Tensor, sizes: Tensor, targets: Targets, mean: Mean
    ) -> dict[str, Tensor]:
        """The parts of the loss, each a scalar to be added to the others.

        Args:
            images: (B, 3, H, W) float, normalised; H and W multiples of 32, at least 64.
            sizes: (B, 2) int64, height and width of each image's valid part.
            targets: the objects.
            mean: averages a normaliser over workers.
        """

    @abstractmethod
    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """What is in each image; `images` and `sizes` as in `losses`. Call in eval mode."""
