"""Which of an image's proposals a head learns from in a step.

How many there are the device alone knows at first. The draws of all images are told to the host at
once, so that it waits for the device once a stage, not once an image and question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.models.detection.base import UNKNOWN
from itpn_ray.models.detection.boxes import IGNORED, NOTHING, match, sample
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
    aims: Tensor
    """(n, 4), that object's box; zeros for nothing."""
    masked: Tensor
    """Which of the first p stand for an object whose mask is known, int64."""
    given: Tensor
    """(n,) bool, whether it is an object's own box."""
    found: Tensor
    """Which of the n are not, int64."""


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """As `Sampled`, with as many places as there could be; those of no use come last."""

    boxes: Tensor
    matched: Tensor
    """(k,) int64: an object, or `NOTHING`, or `IGNORED` for a place of no use."""
    given: Tensor
    masked: Tensor
    """(k,) bool: whether it stands for an object whose mask is known."""

    def counts(self) -> Tensor:
        """Places of use; of them those of objects, of known masks, and not given; (4,) int64."""
        used = self.matched != IGNORED
        parts = (used, self.matched >= 0, self.masked, used & ~self.given)
        return torch.stack([part.sum() for part in parts])

    def cut(self, objects: Objects, nothing: int, counts: Sequence[int]) -> Sampled:
        """Without the places of no use."""
        used, positives, masked, found = counts
        matched = self.matched[:used]
        # One object more, for whatever stands for none: no place needs to be picked out.
        own = torch.where(matched == NOTHING, len(objects.labels), matched)
        return Sampled(
            boxes=self.boxes[:used],
            labels=F.pad(objects.labels, (0, 1), value=nothing)[own],
            matched=matched[:positives],
            aims=F.pad(objects.boxes, (0, 0, 0, 1))[own],
            masked=_places(self.masked, masked),
            given=self.given[:used],
            found=_places(~self.given[:used], found),
        )


def sample_regions(
    proposals: Sequence[Tensor],
    objects: Sequence[Objects],
    *,
    iou: float,
    count: int,
    nothing: int,
    turn: int = 0,
) -> list[Sampled]:
    """Draw boxes to learn from; the host waits for the device once.

    Args:
        proposals: (n, 4) boxes of each image.
        objects: of each image; they are proposals too.
        iou: from which a box stands for an object.
        count: boxes of an image to draw.
        nothing: the label of boxes that stand for nothing.
        turn: number of the draw, where an image has several.
    """
    draws = [
        _draw(boxes, real, iou, count, turn) for boxes, real in zip(proposals, objects, strict=True)
    ]
    told = torch.stack([draw.counts() for draw in draws]).tolist()
    return [
        draw.cut(real, nothing, counts)
        for draw, real, counts in zip(draws, objects, told, strict=True)
    ]


def _draw(proposals: Tensor, objects: Objects, iou: float, count: int, turn: int) -> _Draw:
    # Objects are proposals too, or the first steps would have nothing to learn from.
    boxes = torch.cat([objects.boxes, proposals])
    # One limit for both: no region is left undecided.
    matched = match(boxes, objects.boxes, positive=iou, negative=iou)
    index, taken = sample(
        matched, objects.seed, Stream.REGIONS, count=count, share=POSITIVE_SHARE, turn=turn
    )
    matched = matched[index].masked_fill(~taken, IGNORED)
    masked = matched >= 0
    if objects.masks is not None:
        # An unknown mask is UNKNOWN all over, so one cell tells.
        known = F.pad(objects.masks[:, 0, 0] != UNKNOWN, (0, 1))
        masked = masked & known[matched.clamp(min=NOTHING)]  # the last one for nothing
    given = index < len(objects.boxes)
    return _Draw(boxes=boxes[index], matched=matched, given=given, masked=masked)


def _places(among: Tensor, count: int) -> Tensor:
    """The ``count`` places at which ``among`` (n,) is true, without asking how many there are."""
    return (~among).int().argsort(stable=True)[:count]
