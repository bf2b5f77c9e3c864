"""Matching and losses of queries that find classes with masks (MaskDINO, Mask2Former).

The class is learned by cross-entropy over all classes and "none"; the mask by cross-entropy and the
dice loss at points, most of them where it is least certain; the box, where there is one, by L1 and
GIoU. Pixels that are ignored belong to no mask's points, and images without a labelled pixel teach
nothing: neither is "none".

Shapes: K sets of predictions (layers), B images, Q queries, C channels of a mask's query, M places
for classes, N pairs of a query and a class, P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou

from itpn_ray.models.detection.assignment import assign
from itpn_ray.models.detection.boxes import giou_loss
from itpn_ray.models.detection.dino.boxes import corners
from itpn_ray.models.detection.query_sets import QuerySets
from itpn_ray.models.segmentation.queries.targets import ImageClasses, Points

WEIGHTS = {"class": 4.0, "mask": 5.0, "dice": 5.0, "l1": 5.0, "giou": 2.0}
"""Of the losses, and of the costs in the matching (the MaskDINO authors')."""
NONE_WEIGHT = 0.1
"""Of a query that stands for no class."""


@dataclass(frozen=True, kw_only=True)
class QueryPredictions(QuerySets):
    """K sets of predictions for the same queries."""

    logits: Tensor
    """(K, B, Q, classes + 1) float32; the last is "none"."""
    masks: Tensor
    """(K, B, Q, C) float32: products with the features are the masks' logits."""
    boxes: Tensor | None
    """(K, B, Q, 4) float32 in shares of the image; None where there are none."""


@torch.no_grad()
def match(predictions: QueryPredictions, targets: ImageClasses, points: Points) -> Tensor:
    """Which class of its image each query stands for, (K, B, Q) int64; -1: none."""
    costs = [_costs(predictions, targets, points, image) for image in range(len(targets.labels))]
    queries = predictions.logits.shape[2]
    takes_part = targets.there[:, None].expand(-1, queries, -1)
    return assign(torch.stack(costs), takes_part)


def _costs(
    predictions: QueryPredictions, targets: ImageClasses, points: Points, image: int
) -> Tensor:
    """What it costs to give each class of an image to each query, (K, Q, M) float32."""
    labels = targets.labels[image].clamp(min=0)  # (M,)
    truth = points.truth[image, : points.judged]
    known = (truth >= 0).float()  # (P,)
    own = (truth == targets.labels[image, :, None]).float() * known  # (M, P)
    logits = predictions.masks[:, image] @ points.features[image, :, : points.judged]  # (K, Q, P)
    # Of all pairs at once: softplus(x) is -log(1 -
    # sigmoid(x)), and softplus(-x) is -log(sigmoid(x)).
    apart = F.softplus(logits) @ (known - own).T + F.softplus(-logits) @ own.T
    found = logits.sigmoid() * known
    # 1 is added above and below, so that a class without points has a quotient too.
    common = 2 * found @ own.T + 1
    dice = 1 - common / (found.sum(-1, keepdim=True) + own.sum(-1) + 1)
    cost = (
        -WEIGHTS["class"] * predictions.logits[:, image].softmax(-1)[..., labels]
        + WEIGHTS["mask"] * apart / known.sum().clamp(min=1)
        + WEIGHTS["dice"] * dice
    )
    if predictions.boxes is not None:
        boxes, wanted = predictions.boxes[:, image], targets.boxes[image]
        distance = torch.cdist(boxes, wanted.expand(len(boxes), -1, -1), p=1)
        overlap = generalized_box_iou(corners(boxes).flatten(0, 1), corners(wanted))
        cost = cost + WEIGHTS["l1"] * distance - WEIGHTS["giou"] * overlap.view_as(distance)
    # A network that has diverged is told by its loss, not by an error in the assignment.
    return cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Queries that stand for a class each."""

    query: Tensor
    """(K, B, N) int64."""
    place: Tensor
    """(K, B, N) int64: of the class among the M."""
    weight: Tensor
    """(K, B, N) float32, how much a pair counts; 0 where there is none."""


def matched_pairs(assigned: Tensor, targets: ImageClasses) -> Pairs:
    """The query of each class that was given to one by `match`: N = M."""
    place = torch.arange(targets.labels.shape[1], device=assigned.device)
    own = assigned[:, :, None] == place[:, None]  # (K, B, M, Q)
    # argmax finds the first True; where there is none the weight is 0.
    return Pairs(
        query=own.int().argmax(-1), place=place.expand(own.shape[:3]), weight=own.any(-1).float()
    )


def class_loss(
    logits: Tensor, assigned: Tensor, weights: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the queries' classes, weighted and summed over everything.

    Args:
        logits: (K, B, Q, classes + 1).
        assigned: (K, B, Q) int64, see `match`.
        weights: (B, Q) float32, how much each query counts.
        labels: (B, M) int64.

    Returns:
        The loss; and the sum of what counted, of one set: what it is to be divided by.
    """
    none = logits.shape[-1] - 1
    image = torch.arange(len(labels), device=labels.device)[:, None]
    own = labels[image, assigned.clamp(min=0)]
    wanted = torch.where(assigned >= 0, own, none)  # (K, B, Q)
    weight = weights * torch.where(assigned >= 0, 1.0, NONE_WEIGHT)
    loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none")
    # Counted for one layer, as the losses of the layers add up.
    total = (loss * weight.flatten()).sum()
    return WEIGHTS["class"] * total, weight.sum() / len(logits)


def pair_losses(
    predictions: QueryPredictions, pairs: Pairs, targets: ImageClasses, points: Points
) -> dict[str, Tensor]:
    """The losses "mask" and "dice", and "l1" and "giou" of boxes, weighted and summed."""
    image = torch.arange(len(targets.labels), device=targets.labels.device)[:, None]
    sums: dict[str, Tensor] = {"mask": points.features.new_zeros(())}
    sums["dice"] = sums["mask"]
    for layer, masks in enumerate(predictions.masks):
        query, place, weight = pairs.query[layer], pairs.place[layer], pairs.weight[layer]
        mask, dice = _point_losses(masks[image, query], targets.labels[image, place], points)
        sums["mask"] = sums["mask"] + (mask * weight).sum()
        sums["dice"] = sums["dice"] + (dice * weight).sum()
    if predictions.boxes is not None:
        sets = torch.arange(len(predictions.boxes), device=image.device)[:, None, None]
        boxes = predictions.boxes[sets, image, pairs.query]
        wanted = targets.boxes[image, pairs.place]
        sums["l1"] = ((boxes - wanted).abs().sum(-1) * pairs.weight).sum()
        sums["giou"] = (giou_loss(corners(boxes), corners(wanted)) * pairs.weight).sum()
    return {name: WEIGHTS[name] * value for name, value in sums.items()}


def _point_losses(queries: Tensor, labels: Tensor, points: Points) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice loss of N masks of each image, (B, N) both.

    Args:
        queries: (B, N, C).
        labels: (B, N) int64, of their classes.
        points: of the images.
    """
    logits = queries @ points.features  # (B, N, pool + rest)
    truth = points.truth[:, None].expand_as(logits)
    with torch.no_grad():
        picks = _judged(logits, truth, points)
    logits, truth = logits.gather(2, picks), truth.gather(2, picks)
    known = (truth >= 0).float()
    own = (truth == labels[..., None]).float() * known
    crossed = F.binary_cross_entropy_with_logits(logits, own, weight=known, reduction="none")
    found = logits.sigmoid() * known
    common = 2 * (found * own).sum(-1) + 1
    return (
        crossed.sum(-1) / known.sum(-1).clamp(min=1),
        1 - common / (found.sum(-1) + own.sum(-1) + 1),
    )


def _judged(logits: Tensor, truth: Tensor, points: Points) -> Tensor:
    """Which points each mask is judged at, (B, N, P): the least certain of the pool, and the rest.

    Args:
        logits: (B, N, pool + rest).
        truth: likewise, class or -1: what is ignored comes last.
        points: of the images.
    """
    pool = points.pool
    # Logits near 0 are the least sure; ignored points come last.
    doubt = (-logits[..., :pool].abs()).masked_fill(truth[..., :pool] < 0, -torch.inf)
    chosen = doubt.topk(points.chosen, sorted=False).indices
    rest = torch.arange(pool, logits.shape[-1], device=logits.device)
    return torch.cat([chosen, rest.expand(*logits.shape[:2], -1)], dim=-1)
