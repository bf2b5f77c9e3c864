"""Which of an image's proposals a head learns from in a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from itpn_ray.models.detection.boxes import match, sample
from itpn_ray.models.detection.rcnn.regions import Objects
from itpn_ray.rng import Stream

POSITIVE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The boxes of one image that a stage learns from, those that stand for objects first."""

    boxes: Tensor
    """(n, 4)."""
    labels: Tensor
    """(n,) int64, the number of classes for nothing."""
    matched: Tensor
    """(p,) int64, the object that each of the first p boxes stands for."""
    given: Tensor
    """(n,) bool, whether it is an object's own box."""


def sample_regions(
    proposals: Tensor, objects: Objects, *, iou: float, count: int, nothing: int, turn: int = 0
) -> Sampled:
    """Draw boxes to learn from.

    Args:
        proposals: (n, 4) boxes.
        objects: of the image.
        iou: from which a box stands for an object.
        count: boxes to draw.
        nothing: the label of boxes that stand for nothing.
        turn: number of the draw, where an image has several.
    """
    # Objects are proposals too, or the first steps would have nothing to learn from.
    boxes = torch.cat([objects.boxes, proposals])
    matched = match(boxes, objects.boxes, positive=iou, negative=iou)
    index = sample(
        matched, objects.seed, Stream.REGIONS, count=count, share=POSITIVE_SHARE, turn=turn
    )
    matched = matched[index]
    positive = matched[matched >= 0]
    rest = torch.full_like(matched[len(positive) :], nothing)
    return Sampled(
        boxes=boxes[index],
        labels=torch.cat([objects.labels[positive], rest]),
        matched=positive,
        given=index < len(objects.boxes),
    )
