"""What every detector takes and gives.

Shapes: B images, M places for objects an image, n detections of one image. Boxes are
(x1, y1, x2, y2) in pixels of the view, (0, 0) the upper left corner of the image.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from itpn_ray.models.acceleration.config import Accelerated, Acceleration
from itpn_ray.models.config import DetectorConfig
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.base import Network
from itpn_ray.models.trunk.base import Trunk
from itpn_ray.rng import Stream, uniform_torch

MASK_SIDE = 112  # side of a ground-truth mask, which is cut to its object's box
UNKNOWN = 255  # fills the ground-truth mask of an object that has none
MAX_DETECTIONS = 100  # an image: what COCO's evaluation looks at

USUAL_VIEW = (800, 1333)
"""Shorter and longest side of an image where a detector's file does not say."""

Mean = Callable[[Tensor], Tensor]
"""Averages a loss normaliser over workers; the identity where there is one worker."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The objects of B training images, padded to M places."""

    boxes: Tensor
    """(B, M, 4) float32."""
    labels: Tensor
    """(B, M) int64: a class from 0, or -1 where there is no object."""
    masks: Tensor | None
    """(B, M, 112, 112) uint8, 0 or 1: each object's mask, cut to its own box and resized; `UNKNOWN`
    all over where an object has none."""
    seeds: Tensor
    """(B,) int64: every draw for an image is a function of its seed alone."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one image, the surest first; at most `MAX_DETECTIONS`."""

    boxes: Tensor
    """(n, 4) float32, within the valid part of the view."""
    scores: Tensor
    """(n,) float32 in [0, 1]."""
    labels: Tensor
    """(n,) int64 classes from 0."""
    masks: Tensor | None
    """(n, 28, 28) float32 probabilities, each spread over its own box; None without masks."""


class Detector(Accelerated, Network, ABC):
    """A dense trunk with a head that finds objects.

    Args:
        config: the detector.
        dense: the trunk with its pyramid that `config.dense` describes.

    Attributes:
        trunk: the dense trunk; `body` is the trunk inside it.
        view: shorter and longest side of an image as the detector is shown it, pixels.
        class_ids: COCO's numbers of the classes, where the weight file says; else empty.
    """

    prefix: ClassVar[str] = "trunk."
    config: DetectorConfig
    trunk: DenseTrunk  # type: ignore[assignment]  # other networks hold a bare trunk there
    view: tuple[int, int] = USUAL_VIEW
    class_ids: tuple[int, ...] = ()

    def __init__(self, config: DetectorConfig, dense: DenseTrunk) -> None:
        super().__init__()
        self.config = config
        self.trunk = dense
        self.num_drops = dense.num_drops

    @property
    def body(self) -> Trunk:
        """The trunk inside the dense trunk."""
        return self.trunk.trunk

    def remember(self, metadata: Mapping[str, str]) -> None:
        """See `Network.remember`; of images it is the view's sides that are told."""
        super().remember(metadata)
        short_side, long_side = json.loads(metadata.get("view", json.dumps(USUAL_VIEW)))
        self.view = int(short_side), int(long_side)
        self.class_ids = tuple(map(int, json.loads(metadata.get("class_ids", "[]"))))

    @property
    def preprocess(self) -> Callable[..., Any]:
        """See `Network.preprocess`; what it returns are the arguments of `detect`."""
        from itpn_ray.models.networks.preprocess import WholeView

        return WholeView(short_side=self.view[0], long_side=self.view[1])

    def set_acceleration(self, acceleration: Acceleration) -> None:
        """See `Accelerated.set_acceleration`."""
        self.trunk.set_acceleration(acceleration)
        self.config = replace(self.config, trunk=self.body.config)

    def maps(self, images: Tensor, seeds: Tensor | None = None) -> OrderedDict[int, Tensor]:
        """Feature maps by stride, see `DenseTrunk.forward`.

        Args:
            images: (B, 3, H, W) float, normalised.
            seeds: (B,) int64, decide stochastic depth in training; None where none is drawn.
        """
        noise = None
        if seeds is not None:
            noise = uniform_torch(0, 0, seeds, Stream.DROP_PATH, self.num_drops)
        return self.trunk(images, drop_noise=noise)

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
