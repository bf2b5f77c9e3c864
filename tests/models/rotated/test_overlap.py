"""Overlap of turned boxes against exact arithmetic, and suppression against the greedy loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from torch import Tensor

from itpn_ray.models.rotated.overlap import overlaps, rotated_iou, rotated_nms

Points = list[tuple[Any, Any]]


def corners(box: Sequence[float]) -> Points:
    """The corners of a box in turn, computed without the code under test."""
    x, y, w, h, angle = box
    cos, sin = math.cos(angle), math.sin(angle)
    steps = ((-w, -h), (w, -h), (w, h), (-w, h))
    return [(x + (cos * a - sin * b) / 2, y + (sin * a + cos * b) / 2) for a, b in steps]


def area(points: Points) -> Any:
    """By the shoelace formula, counted from the first corner."""
    parts = [(x - points[0][0], y - points[0][1]) for x, y in points]
    following = [*parts[1:], *parts[:1]]
    return abs(sum(a * d - b * c for (a, b), (c, d) in zip(parts, following, strict=True))) / 2


def cut(points: Points, begin: Any, end: Any) -> Points:
    """What of a convex polygon lies to the right of a line, in any kind of numbers."""
    across = (begin[1] - end[1], end[0] - begin[0])
    depth = [(x - begin[0]) * across[0] + (y - begin[1]) * across[1] for x, y in points]
    kept: Points = []
    for n, point in enumerate(points):
        before = n - 1
        if (depth[n] > 0 > depth[before]) or (depth[n] < 0 < depth[before]):
            share = depth[before] / (depth[before] - depth[n])
            last = points[before]
            kept.append(
                (last[0] + (point[0] - last[0]) * share, last[1] + (point[1] - last[1]) * share)
            )
        if depth[n] >= 0:
            kept.append(point)
    return kept


def judged(first: Sequence[float], second: Sequence[float], number: Any = float) -> float:
    """The IoU of two boxes by cutting one along the sides of the other."""
    if not (first[2] * first[3] and second[2] * second[3]):
        return 0.0
    one, other = ([(number(x), number(y)) for x, y in corners(box)] for box in (first, second))
    shared = one
    for n in range(4):
        shared = cut(shared, other[n], other[(n + 1) % 4]) if shared else shared
    both = area(shared) if len(shared) > 2 else number(0)
    return float(both / (area(one) + area(other) - both))


def judged_all(first: Tensor, second: Tensor) -> Tensor:
    """`judged` pair by pair, (n,) float64."""
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    return torch.tensor([judged(*pair) for pair in pairs], dtype=torch.float64)


def drawn(count: int, seed: int) -> Tensor:
    """Boxes of all shapes that lie close together, (count, 5) float64."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([40.0, 40.0, 60.0, 30.0, 2 * math.pi], dtype=torch.float64)
    boxes = torch.rand(count, 5, generator=generator, dtype=torch.float64) * scale
    return boxes + torch.tensor([0.0, 0.0, 0.01, 0.01, -math.pi], dtype=torch.float64)


def adversarial(count: int) -> tuple[Tensor, Tensor]:
    """Pairs that overlap in an edge, a corner, nearly all or nothing; thin ones, far ones."""
    first = drawn(count, 5)
    generator = torch.Generator().manual_seed(6)
    noise = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    kinds = []
    for step in (0.0, 1e-15, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3):
        kinds.append((first, first + step * noise))
    along = torch.stack([first[:, 4].cos(), first[:, 4].sin()], dim=1) * first[:, 2:3]
    zero = torch.zeros(count, 3, dtype=torch.float64)
    kinds.append((first, first + torch.cat([along, zero], dim=1)))  # side by side
    kinds.append((first, first + torch.cat([along / 2, zero], dim=1)))
    swapped = first[:, [0, 1, 3, 2, 4]] + torch.tensor([0.0, 0, 0, 0, math.pi / 2])
    kinds.append((first, swapped))  # the same box, told otherwise
    kinds.append((first, first * torch.tensor([1.0, 1, 0.5, 0.5, 1])))  # inside
    quarters = first.clone()
    quarters[:, 4] = torch.arange(count) % 4 * (math.pi / 2)
    whole = quarters.clone()
    whole[:, :4] = whole[:, :4].round() + 1
    kinds.append((whole, whole.roll(1, dims=0)))  # edges on whole numbers
    thin = first.clone()
    thin[:, 3] = 1e-6
    kinds.append((thin, first))
    kinds.append((thin, thin + 1e-9 * noise))
    far = first + torch.tensor([1e5, 1e5, 0, 0, 0], dtype=torch.float64)
    kinds.append((far, far + 1e-4 * noise))
    empty = first.clone()
    empty[:, 3] = 0
    kinds += [(empty, first), (first, empty), (empty, empty)]
    return torch.cat([one for one, _ in kinds]), torch.cat([other for _, other in kinds])


def test_iou_of_random_pairs() -> None:
    first, second = drawn(8_000, 1), drawn(8_000, 2)
    expected = judged_all(first, second)
    assert 3_000 < (expected > 0).sum() < 7_900
    found = rotated_iou(first, second)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_iou_of_adversarial_pairs() -> None:
    """In exact fractions of the corners, whose own rounding is all that is tolerated."""
    first, second = adversarial(12)
    found = rotated_iou(first, second).tolist()
    pairs = zip(first.tolist(), second.tolist(), found, strict=True)
    for one, other, value in pairs:
        assert value == pytest.approx(judged(one, other, Fraction), rel=0, abs=1e-6), (one, other)
        assert 0 <= value <= 1


def test_many_adversarial_pairs() -> None:
    first, second = adversarial(112)
    assert len(first) > 2_000
    found = rotated_iou(first, second)
    torch.testing.assert_close(found, judged_all(first, second), rtol=0, atol=1e-6)
    torch.testing.assert_close(found, rotated_iou(second, first), rtol=0, atol=1e-6)


def test_shapely_finds_the_same() -> None:
    """Ten thousand pairs, random and adversarial ones."""
    random, hard = (drawn(8_000, 1), drawn(8_000, 2)), adversarial(120)
    first, second = (torch.cat(pair) for pair in zip(random, hard, strict=True))
    assert len(first) > 10_000
    one, other = (
        shapely.polygons([corners(box) for box in boxes.tolist()]) for boxes in (first, second)
    )
    shared = shapely.area(shapely.intersection(one, other))
    either = shapely.area(one) + shapely.area(other) - shared
    expected = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    found = rotated_iou(first, second)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_a_box_overlaps_itself_wholly() -> None:
    boxes = drawn(500, 3)
    assert (rotated_iou(boxes, boxes) > 1 - 1e-12).all()
    # In float32 as the network gives them, with the noise of its last digit.
    near = boxes.float()
    assert (rotated_iou(near, near * (1 + 1e-7)) > 1 - 1e-3).all()


def test_all_pairs_are_those_one_by_one() -> None:
    first, second = drawn(40, 1), drawn(30, 2)
    expected = rotated_iou(first[:, None], second[None])
    torch.testing.assert_close(overlaps(first, second), expected, rtol=0, atol=1e-12)
    assert overlaps(first, second[:0]).shape == (40, 0)


def greedy(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> list[int]:
    """Suppression box by box."""
    kept: list[int] = []
    for n in scores.argsort(descending=True, stable=True).tolist():
        rivals = [k for k in kept if labels[k] == labels[n]]
        if all(rotated_iou(boxes[n], boxes[k]) <= threshold for k in rivals):
            kept.append(n)
    return kept


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_suppression_is_the_greedy_one(threshold: float) -> None:
    boxes = drawn(70, 7)
    generator = torch.Generator().manual_seed(8)
    scores = torch.randint(0, 40, (70,), generator=generator) / 40  # many are equal
    labels = torch.randint(0, 3, (70,), generator=generator)
    found = rotated_nms(boxes, scores, labels, threshold)
    assert found.tolist() == greedy(boxes, scores, labels, threshold)


def test_a_box_that_is_out_lets_its_rivals_live() -> None:
    """A chain in which each box overlaps the next: every other one stays."""
    boxes = torch.tensor([[10.0 * n, 0, 15, 10, 0] for n in range(9)])
    scores, labels = torch.linspace(1, 0.1, 9), torch.zeros(9, dtype=torch.int64)
    assert rotated_nms(boxes, scores, labels, 0.1).tolist() == [0, 2, 4, 6, 8]
    assert rotated_nms(boxes, scores, torch.arange(9), 0.1).tolist() == list(range(9))
    assert rotated_nms(boxes[:0], scores[:0], labels[:0], 0.1).tolist() == []
