"""How much turned boxes overlap, and which of them are one; exact, on the device, no loop a box.

Boxes are (x, y, w, h, angle), see `itpn_ray.models.rotated.boxes`; any angle and either order of
the sides will do here. All is computed in float64: in float32 the corners of a box at 10,000 pixels
are known to a thousandth only, which is much of a thin one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from itpn_ray.models.rotated.boxes import corners_of

_ROWS = 512
"""Boxes compared with all others at once, which bounds the memory."""


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """The shared area of boxes (..., 5), pair by pair; they broadcast.

    In the frame of the second box, that is |x| <= a, |y| <= b, the shared area is the integral of
    y, cut off at +-b, along the first box's outline, over those x that are not beyond +-a (Green's
    theorem). Each edge is a straight line, and its share a sum of three trapezia. Where outlines
    fall together nothing is decided by a sign, as it is where crossings are looked for: the result
    depends on all numbers continuously, and rounding changes it by rounding only.
    """
    first, second = torch.broadcast_tensors(first.double(), second.double())
    x, y = _outline(first, second).unbind(-1)  # (..., 4)
    a, b = second[..., 2:3].abs() / 2, second[..., 3:4].abs() / 2  # (..., 1)
    # Edges lead from each corner to the next.
    dx, dy = x.roll(-1, dims=-1) - x, y.roll(-1, dims=-1) - y
    begin, end = x.clamp(-a, a), (x + dx).clamp(-a, a)
    y_begin, y_end = (y + _fraction(place - x, dx) * dy for place in (begin, end))
    return ((end - begin) * _mean(y_begin, y_end, b)).sum(dim=-1).abs()


def rotated_iou(first: Tensor, second: Tensor) -> Tensor:
    """Shared area over the area of both, of boxes (..., 5) pair by pair; 0 where neither has any.

    Args:
        first: (..., 5); ``first[:, None]`` and ``second[None]`` give all pairs.
        second: likewise; they broadcast.

    Returns:
        (...) float64 in [0, 1].
    """
    areas = [boxes[..., 2:4].double().abs().prod(dim=-1) for boxes in (first, second)]
    # Rounding must not make the shared area larger than a box.
    shared = torch.minimum(intersection(first, second), torch.minimum(*areas))
    union = areas[0] + areas[1] - shared
    # tiny, for where there is no union 0 / 0 would be computed before it is thrown away.
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """The IoU of all pairs of boxes (n, 5) and (m, 5): (n, m) float64."""
    # Boxes farther apart than their half diagonals share nothing.
    near = _distance(first, second) <= _reach(first)[:, None] + _reach(second)
    found = torch.zeros(near.shape, dtype=torch.float64, device=first.device)
    one, other = near.nonzero(as_tuple=True)
    found[one, other] = rotated_iou(first[one], second[other])
    return found


def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The boxes that no surer box of their class, itself kept, overlaps by more than a threshold.

    Args:
        boxes: (n, 5).
        scores: (n,); of equal ones the first counts as the surer.
        labels: (n,).
        threshold: of the IoU.

    Returns:
        Indices of those that are kept, the surest first.
    """
    order = scores.argsort(descending=True, stable=True)
    surer, other = _rivals(boxes[order].double(), labels[order], threshold)
    kept = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    # A box is out if a kept one beats it. After k rounds this is right for the first k boxes, and
    # in practice for all after the few rounds that the longest chain of rivals has.
    while True:
        beaten = torch.zeros_like(kept)
        beaten[other[kept[surer]]] = True
        if torch.equal(kept, ~beaten):
            return order[kept]
        kept = ~beaten


def _rivals(boxes: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Pairs of boxes of one class that overlap too much: the surer one's index, and the other's."""
    reach = _reach(boxes)
    place = torch.arange(len(boxes), device=boxes.device)
    # An empty pair, so that there is always something to concatenate.
    found = [(place[:0], place[:0])]
    for start in range(0, len(boxes), _ROWS):
        rows = slice(start, start + _ROWS)
        near = _distance(boxes[rows], boxes) <= reach[rows, None] + reach
        near &= (labels[rows, None] == labels) & (place[rows, None] < place)
        surer, other = near.nonzero(as_tuple=True)
        surer = surer + start
        close = rotated_iou(boxes[surer], boxes[other]) > threshold
        found.append((surer[close], other[close]))
    surer, other = (torch.cat(part) for part in zip(*found, strict=True))
    return surer, other


def _reach(boxes: Tensor) -> Tensor:
    """Half the diagonals, (n,)."""
    return boxes[:, 2:4].norm(dim=1) / 2


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Between all pairs of centres, (n, m)."""
    return torch.hypot(*(first[:, None, axis] - second[:, axis] for axis in (0, 1)))


def _outline(first: Tensor, second: Tensor) -> Tensor:
    """The corners of the first boxes, (..., 4, 2), in the frame of the second."""
    shift, angle = first[..., :2] - second[..., :2], second[..., 4]
    cos, sin = angle.cos(), angle.sin()
    x = cos * shift[..., 0] + sin * shift[..., 1]
    y = cos * shift[..., 1] - sin * shift[..., 0]
    turned = [x, y, first[..., 2], first[..., 3], first[..., 4] - angle]
    return corners_of(torch.stack(turned, dim=-1))


def _mean(begin: Tensor, end: Tensor, limit: Tensor) -> Tensor:
    """The mean of a number that goes evenly from one to another, cut off at +-limit."""
    step = end - begin
    cuts = [_fraction(-limit - begin, step), _fraction(limit - begin, step)]
    first, second = torch.minimum(*cuts), torch.maximum(*cuts)
    places = (torch.zeros_like(first), first, second, torch.ones_like(first))
    low, cut, high, last = ((begin + place * step).clamp(-limit, limit) for place in places)
    parts = first * (low + cut) + (second - first) * (cut + high) + (1 - second) * (high + last)
    return parts / 2


def _fraction(part: Tensor, whole: Tensor) -> Tensor:
    """A part over a whole, in [0, 1]; whatever it is for a whole of 0 makes no difference."""
    return (part / torch.where(whole == 0, 1.0, whole)).clamp(0, 1)
