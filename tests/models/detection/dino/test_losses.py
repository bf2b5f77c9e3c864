from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from itpn_ray.models.detection.dino.losses import (
    Predictions,
    match,
    matching_costs,
    set_losses,
)

Box = list[float]

BOXES = torch.tensor(
    [[[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.4, 0.2]], [[0.5, 0.5, 0.9, 0.9], [0.0] * 4]]
)
LABELS = torch.tensor([[2, 0], [1, -1]])
USABLE = torch.ones(2, 4, dtype=torch.bool)


def predictions(sets: int = 3, queries: int = 4) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(sets, 2, queries, 3, generator=generator)
    boxes = torch.rand(sets, 2, queries, 4, generator=generator) * 0.6 + 0.2
    return Predictions(logits=logits.requires_grad_(), boxes=boxes.requires_grad_())


def overlap(a: Box, b: Box) -> float:
    """Generalised IoU of two boxes (x, y, width, height), by its definition."""
    ends = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (a, b)]
    low = [max(ends[0][i], ends[1][i]) for i in (0, 1)]
    high = [min(ends[0][i], ends[1][i]) for i in (2, 3)]
    both = max(0.0, high[0] - low[0]) * max(0.0, high[1] - low[1])
    either = a[2] * a[3] + b[2] * b[3] - both
    width, height = (max(e[i + 2] for e in ends) - min(e[i] for e in ends) for i in (0, 1))
    return both / either - (width * height - either) / (width * height)


def focal(logit: float, wanted: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return 0.25 * (1 - p) ** 2 * -math.log(p) if wanted else 0.75 * p**2 * -math.log(1 - p)


def cost(logits: list[float], box: Box, target: Box, label: int) -> float:
    found = focal(logits[label], True) - focal(logits[label], False)
    distance = sum(abs(x - y) for x, y in zip(box, target, strict=True))
    return 2 * found + 5 * distance - 2 * overlap(box, target)


def test_costs_by_brute_force():
    made = predictions()
    costs = matching_costs(made.logits[:, 0], made.boxes[:, 0], BOXES[0], LABELS[0])
    assert costs.shape == (3, 4, 2)
    for layer, query, place in itertools.product(range(3), range(4), range(2)):
        wanted = cost(
            made.logits[layer, 0, query].tolist(),
            made.boxes[layer, 0, query].tolist(),
            BOXES[0, place].tolist(),
            int(LABELS[0, place]),
        )
        assert math.isclose(costs[layer, query, place].item(), wanted, abs_tol=1e-4)


def test_matching_is_the_cheapest_of_all():
    made = predictions()
    assigned = match(made, BOXES, LABELS, USABLE)
    costs = matching_costs(made.logits[:, 0], made.boxes[:, 0], BOXES[0], LABELS[0])
    for layer in range(3):
        ways = itertools.permutations(range(4), 2)  # the queries of objects 0 and 1
        best = min(ways, key=lambda way: sum(costs[layer, q, o].item() for o, q in enumerate(way)))
        wanted = [-1] * 4
        for place, query in enumerate(best):
            wanted[query] = place
        assert assigned[layer, 0].tolist() == wanted
    assert (assigned[:, 1] == 0).sum(1).tolist() == [1, 1, 1]
    assert (assigned[:, 1] <= 0).all()


def test_only_usable_queries_are_matched():
    usable = torch.tensor([[False, True, False, False], [False] * 4])
    assigned = match(predictions(), BOXES, LABELS, usable)
    # One query for two objects: it is given one of them.
    assert (assigned[:, 0, 1] >= 0).all()
    assert (assigned[:, 0, [0, 2, 3]] == -1).all()
    assert (assigned[:, 1] == -1).all()


def test_matching_survives_a_diverged_network():
    made = predictions()
    broken = Predictions(logits=made.logits * torch.nan, boxes=made.boxes * torch.nan)
    assigned = match(broken, BOXES, LABELS, USABLE)
    assert sorted(assigned[0, 0].tolist()) == [-1, -1, 0, 1]
    assert set_losses(broken, assigned, USABLE.float(), BOXES, LABELS)["class"].isnan()


def brute_force(made: Predictions, assigned: Tensor, weights: Tensor) -> dict[str, float]:
    sums = {"class": 0.0, "l1": 0.0, "giou": 0.0}
    for layer, image, query in itertools.product(range(3), range(2), range(4)):
        place, weight = int(assigned[layer, image, query]), weights[image, query].item()
        label = int(LABELS[image, place]) if place >= 0 else None
        for number, logit in enumerate(made.logits[layer, image, query].tolist()):
            sums["class"] += weight * focal(logit, number == label)
        if place >= 0:
            box = made.boxes[layer, image, query].tolist()
            target = BOXES[image, place].tolist()
            sums["l1"] += 5 * weight * sum(abs(x - y) for x, y in zip(box, target, strict=True))
            sums["giou"] += 2 * weight * (1 - overlap(box, target))
    return sums


def test_losses_by_brute_force():
    made = predictions()
    assigned = torch.tensor([[0, -1, 1, 0], [-1, 0, -1, -1]]).expand(3, 2, 4)
    weights = torch.tensor([[1.0, 0.5, 0.25, 0.0], [1.0, 2.0, 0.0, 1.0]])
    losses = set_losses(made, assigned, weights, BOXES, LABELS)
    for name, wanted in brute_force(made, assigned, weights).items():
        assert math.isclose(losses[name].item(), wanted, rel_tol=1e-4), name


def test_without_objects_only_classes_are_learned():
    made = predictions()
    assigned = match(made, BOXES, torch.full((2, 2), -1), USABLE)
    assert (assigned == -1).all()
    losses = set_losses(made, assigned, USABLE.float(), BOXES, LABELS)
    assert losses["l1"] == losses["giou"] == 0
    sum(losses.values()).backward()
    assert made.logits.grad is not None
    assert made.logits.grad.abs().min() > 0
    assert made.boxes.grad is not None  # zeros: every parameter takes part on every worker
    assert made.boxes.grad.abs().max() == 0
