"""Queries: their targets, points, matching and losses against plain computations."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.models.segmentation.queries import losses as queries
from itpn_ray.models.segmentation.queries.losses import (
    QueryPredictions,
    class_loss,
    match,
    matched_pairs,
    pair_losses,
)
from itpn_ray.models.segmentation.queries.targets import (
    Points,
    draw_points,
    image_classes,
)

CLASSES, QUERIES, WIDTH = 6, 5, 4


def masks() -> Tensor:
    """Two images of 8 x 12: classes 1 and 4 in rectangles with the rest ignored; nothing."""
    found = torch.full((2, 8, 12), -1, dtype=torch.int16)
    found[0, 2:5, 3:9] = 4
    found[0, 6:, :2] = 1
    return found


def predictions(boxes: bool = True) -> QueryPredictions:
    generator = torch.Generator().manual_seed(3)
    shape = (2, 2, QUERIES)
    return QueryPredictions(
        logits=torch.randn(*shape, CLASSES + 1, generator=generator),
        masks=torch.randn(*shape, WIDTH, generator=generator),
        boxes=torch.rand(*shape, 4, generator=generator) / 2 + 0.2 if boxes else None,
    )


def points(truth: Tensor, count: int = 16) -> Points:
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(len(truth), WIDTH, 5, 7, generator=generator)
    return draw_points(features, truth, torch.tensor([11, 12]), count)


def test_classes_of_an_image_have_tight_boxes() -> None:
    found = image_classes(masks(), CLASSES)
    assert found.labels.tolist() == [[1, 4], [-1, -1]]
    wanted = torch.tensor([[1 / 12, 7 / 8, 2 / 12, 2 / 8], [6 / 12, 3.5 / 8, 6 / 12, 3 / 8]])
    torch.testing.assert_close(found.boxes[0], wanted)


def test_points_see_masks_and_interpolated_features() -> None:
    """Features that are the places of their cells are those of the points, but at the border."""
    truth = masks()
    columns, rows = torch.arange(24) + 0.5, torch.arange(16) + 0.5
    plane = torch.stack([columns.expand(16, -1) / 24, rows[:, None].expand(-1, 24) / 16])
    seen = draw_points(plane.expand(2, -1, -1, -1), truth, torch.tensor([1, 2]), 400)
    assert seen.features.shape == (2, 2, 400 * 3 + 100)
    assert not torch.equal(seen.features[0], seen.features[1])
    x, y = seen.features[0] * torch.tensor([[12.0], [8.0]])
    inside = ((x - x.round()).abs() > 0.3) & ((y - y.round()).abs() > 0.3)
    assert torch.equal(truth[0, y.long(), x.long()][inside].long(), seen.truth[0][inside])


@pytest.mark.parametrize("boxes", [True, False])
def test_matching_is_the_cheapest_of_all(boxes: bool) -> None:
    truth = masks()
    targets, found, seen = image_classes(truth, CLASSES), predictions(boxes), points(truth)
    assigned = match(found, targets, seen)
    assert (assigned[:, 1] == -1).all()
    cost = queries._costs(found, targets, seen, 0)
    for layer in range(2):
        pairs = itertools.permutations(range(QUERIES), 2)
        best = min(pairs, key=lambda pair: sum(cost[layer, q, m] for m, q in enumerate(pair)))
        assert [assigned[layer, 0].tolist().index(m) for m in (0, 1)] == list(best)


def test_losses_of_pairs_are_those_of_their_points() -> None:
    truth = masks()
    targets, found, seen = image_classes(truth, CLASSES), predictions(), points(truth)
    assigned = match(found, targets, seen)
    losses = pair_losses(found, matched_pairs(assigned, targets), targets, seen)
    mask = dice = 0.0
    pool = seen.truth.shape[1] - 4  # 4 of the 16 lie where they fall
    for layer, place in itertools.product(range(2), range(2)):
        query = assigned[layer, 0].tolist().index(place)
        logits = found.masks[layer, 0, query] @ seen.features[0]
        doubtful = [p for p in range(pool) if seen.truth[0, p] >= 0]
        doubtful = sorted(doubtful, key=lambda p: logits[p].abs().item())[:12]
        judged = doubtful + [p for p in range(pool, pool + 4) if seen.truth[0, p] >= 0]
        own = (seen.truth[0, judged] == targets.labels[0, place]).float()
        p = logits[judged].sigmoid()
        mask += F.binary_cross_entropy(p, own).item()
        dice += (1 - (2 * (p * own).sum() + 1) / (p.sum() + own.sum() + 1)).item()
    assert losses["mask"].item() == pytest.approx(5 * mask, rel=1e-4)
    assert losses["dice"].item() == pytest.approx(5 * dice, rel=1e-4)


def test_the_class_of_unmatched_queries_is_none() -> None:
    found, labels = predictions(), torch.tensor([[1, 4], [-1, -1]])
    assigned = torch.full((2, 2, QUERIES), -1)
    assigned[:, 0, 3] = 1
    weights = torch.tensor([[1.0], [0.0]]).expand(-1, QUERIES)
    total, counted = class_loss(found.logits, assigned, weights, labels)
    assert counted.item() == pytest.approx(1 + 0.1 * (QUERIES - 1))
    logs = found.logits[:, 0].log_softmax(-1)
    wanted = -logs[:, 3, 4].sum() - 0.1 * logs[:, [0, 1, 2, 4], CLASSES].sum()
    assert total.item() == pytest.approx(4 * wanted.item(), rel=1e-5)
