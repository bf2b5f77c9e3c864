"""Boxes as offsets from other boxes, and which boxes a step learns from.

Boxes are (x1, y1, x2, y2) in pixels. The rules are those of the authors' configurations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou

from itpn_ray.rng import uniform_torch

NOTHING = -1  # a box that stands for no object
IGNORED = -2  # a box that is neither near enough to an object nor far enough from all

Weights = tuple[float, float]
"""What offsets of the centre and logarithms of the sides are multiplied by."""

_EPS = 1e-7  # for boxes without an area
_LARGEST = math.log(1000 / 16)  # of a logarithm of sides: a box never grows more at once


def encode(boxes: Tensor, targets: Tensor, weights: Weights) -> Tensor:
    """What leads from (n, 4) boxes to (n, 4) targets: (dx, dy, dw, dh), (n, 4)."""
    size, aim = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shift = (targets[:, :2] + aim / 2 - boxes[:, :2] - size / 2) / size
    return torch.cat([shift * weights[0], (aim / size).log() * weights[1]], dim=1)


def decode(boxes: Tensor, deltas: Tensor, weights: Weights) -> Tensor:
    """Where deltas (..., 4) lead from boxes (..., 4), which broadcast: the inverse of `encode`."""
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size / 2 + deltas[..., :2] / weights[0] * size
    half = (deltas[..., 2:] / weights[1]).clamp(max=_LARGEST).exp() * size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """One minus the generalised IoU of boxes (..., 4) and targets (..., 4), pair by pair (...).

    Rezatofighi et al., 2019. torchvision's picks out the pairs that overlap, which has the host
    wait for the device; here all are computed alike.
    """
    first, last = torch.maximum(boxes, targets), torch.minimum(boxes, targets)
    shared = _area((last[..., 2:] - first[..., :2]).clamp(min=0))
    whole = _area(first[..., 2:] - last[..., :2])  # of the smallest box around both
    own, aim = (_area(x[..., 2:] - x[..., :2]) for x in (boxes, targets))
    union = own + aim - shared
    return 1 - shared / (union + _EPS) + (whole - union) / (whole + _EPS)


def match(
    boxes: Tensor,
    objects: Tensor,
    *,
    positive: float,
    negative: float,
    rescue: float | None = None,
) -> Tensor:
    """The object that each box stands for.

    Args:
        boxes: (n, 4).
        objects: (m, 4).
        positive: IoU from which a box stands for its nearest object.
        negative: IoU below which a box stands for nothing.
        rescue: the boxes nearest to an object stand for it from this IoU on; None: no exception.

    Returns:
        (n,) int64 indices of objects, or `NOTHING`, or `IGNORED` in between.
    """
    if not len(objects):
        return torch.full((len(boxes),), NOTHING, device=boxes.device)
    iou = box_iou(objects, boxes)  # (m, n)
    best, nearest = iou.max(dim=0)
    other = torch.where(best < negative, NOTHING, IGNORED)
    matched = torch.where(best >= positive, nearest, other)
    if rescue is not None:
        highest = iou.amax(dim=1, keepdim=True)
        closest = (iou == highest) & (highest >= rescue)
        number = torch.arange(len(objects), device=boxes.device)[:, None]
        # An object that no box overlaps well would otherwise teach nothing; of several it is the
        # last.
        rescued = torch.where(closest, number, NOTHING).amax(dim=0)
        matched = torch.where(rescued >= 0, rescued, matched)
    return matched


def sample(
    matched: Tensor, seed: Tensor, stream: int, *, count: int, share: float, turn: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw `count` boxes of one image to learn from, fewer where there are no more.

    How many they are depends on what the device has computed; the host does not wait for it.

    Args:
        matched: (n,) int64 from `match`.
        seed: (1,) int64, the image's.
        stream: what the draw is for, see `itpn_ray.rng.Stream`.
        count: boxes to draw.
        share: largest share of them that stands for objects.
        turn: number of the draw, where an image has several of one stream.

    Returns:
        Indices of boxes, (min(count, n),) int64: those that stand for objects, then those that
        stand for nothing, then places of no use; and (min(count, n),) bool, false for the last.
    """
    # float64: of 200,000 anchors several would share a key of float32's 24 bits.
    keys = uniform_torch(0, turn, seed, stream, len(matched), torch.float64)[0]
    # Those with the smallest of random keys are a random choice.
    positives, real = _smallest(keys, matched >= 0, int(count * share))
    negatives, free = _smallest(keys, matched == NOTHING, count)
    # As many as those of objects have left of the count.
    free &= torch.arange(len(free), device=free.device) < count - real.sum()
    index, taken = torch.cat([positives, negatives]), torch.cat([real, free])
    # Stable: what is taken comes first, each sort in its order.
    first = (~taken).int().argsort(stable=True)[: min(count, len(matched))]
    return index[first], taken[first]


def _area(sides: Tensor) -> Tensor:
    return sides[..., 0] * sides[..., 1]


def _smallest(keys: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The smallest keys of some, the smallest first: indices, and whether each is one of them."""
    chosen = torch.where(among, keys, math.inf).topk(min(count, len(keys)), largest=False)
    return chosen.indices, chosen.values.isfinite()
