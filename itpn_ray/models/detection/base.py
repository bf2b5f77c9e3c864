"""What every detector takes and gives.

Shapes: B pictures, M places for objects a picture, n detections of one picture. Boxes are
(x1, y1, x2, y2) in pixels of the view, (0, 0) the upper left corner of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

MASK_SIDE = 112  # side of a ground-truth mask, which is cut to its object's box
MAX_DETECTIONS = 100  # a picture: what COCO's evaluation looks at

Mean = Callable[[Tensor], Tensor]
"""Averages a loss normaliser over workers; the identity where there is one worker."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The objects of B training pictures, padded to M places."""

    boxes: Tensor
    """(B, M, 4) float32."""
    labels: Tensor
    """(B, M) int64: a class from 0, or -1 where there is no object."""
    masks: Tensor | None
    """(B, M, 112, 112) uint8, 0 or 1: each object's mask, cut to its own box and resized."""
    seeds: Tensor
    """(B,) int64: every draw for a picture is a function of its seed alone."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one picture, the surest first; at most `MAX_DETECTIONS`."""

    boxes: Tensor
    """(n, 4) float32, within the valid part of the view."""
    scores: Tensor
    """(n,) float32 in [0, 1]."""
    labels: Tensor
    """(n,) int64 classes from 0."""
    masks: Tensor | None
    """(n, 28, 28) float32 probabilities, each spread over its own box; None without masks."""
