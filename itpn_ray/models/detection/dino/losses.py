"""DINO's matching and losses (DINO, appendix D.4; Deformable DETR, appendix A.4).

A prediction is matched with at most one object, by the least total cost; classes learn by the focal
loss over all predictions, boxes by L1 and GIoU over the matched ones.

Shapes: K sets of predictions (layers), B images, Q queries, C classes, M places for objects.
Boxes are (x, y, width, height) in shares of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from itpn_ray.models.detection.assignment import assign
from itpn_ray.models.detection.boxes import giou_loss
from itpn_ray.models.detection.dino.boxes import corners
from itpn_ray.models.detection.query_sets import QuerySets

COSTS = (2.0, 5.0, 2.0)  # of class, L1 and GIoU in the matching
WEIGHTS = {"class": 1.0, "l1": 5.0, "giou": 2.0}  # of the losses
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss, and of its like in the matching


@dataclass(frozen=True, kw_only=True)
class Predictions(QuerySets):
    """K sets of predictions for the same queries."""

    logits: Tensor
    """(K, B, Q, C) float32."""
    boxes: Tensor
    """(K, B, Q, 4) float32."""
    masks: Tensor | None = None
    """(K, B, Q, C) float32: products with the features are the masks' logits; None without."""


@torch.no_grad()
def match(predictions: Predictions, boxes: Tensor, labels: Tensor, usable: Tensor) -> Tensor:
    """Which object each prediction stands for.

    Args:
        predictions: K sets.
        boxes: (B, M, 4) of the objects.
        labels: (B, M) int64, -1 where there is no object.
        usable: (B, Q) bool, the queries that take part.

    Returns:
        (K, B, Q) int64: a place among the M, or -1. Each object is given to one prediction of each
        set, or to none where there are more objects than usable queries.
    """
    # Places without an object cost as class 0 does, and do not take part.
    places = labels.clamp(min=0)
    costs = torch.stack(
        [
            matching_costs(predictions.logits[:, image], predictions.boxes[:, image], *targets)
            for image, targets in enumerate(zip(boxes, places, strict=True))
        ]
    )  # (B, K, Q, M)
    takes_part = usable[:, :, None] & (labels >= 0)[:, None, :]  # (B, Q, M)
    return assign(costs, takes_part)


def matching_costs(logits: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """What it costs to give each of n objects to each of Q predictions, (K, Q, n) float32.

    Args:
        logits: (K, Q, C).
        boxes: (K, Q, 4).
        targets: (n, 4).
        labels: (n,) int64.
    """
    # The focal loss of the one class, with the object and without it; DINO matches by their
    # difference.
    p = logits.sigmoid()
    # 1e-8 keeps the logarithms finite, for float32 rounds scores to 0 and 1.
    found = ALPHA * (1 - p) ** GAMMA * -(p + 1e-8).log()
    missed = (1 - ALPHA) * p**GAMMA * -(1 - p + 1e-8).log()
    classes = (found - missed)[..., labels]  # (K, Q, M)
    distance = torch.cdist(boxes, targets.expand(len(boxes), -1, -1), p=1)
    overlap = generalized_box_iou(corners(boxes).flatten(0, 1), corners(targets))
    cost = COSTS[0] * classes + COSTS[1] * distance - COSTS[2] * overlap.view_as(distance)
    # A network that has diverged is told by its loss, not by an error in here.
    return cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)


def set_losses(
    predictions: Predictions, assigned: Tensor, weights: Tensor, boxes: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The losses "class", "l1" and "giou", weighted and summed over sets, images and queries.

    Args:
        predictions: K sets.
        assigned: (K, B, Q) int64, the object that each prediction stands for, or -1: none.
        weights: (B, Q) float32, how much each query counts.
        boxes: (B, M, 4) of the objects.
        labels: (B, M) int64 of the objects.
    """
    matched = assigned >= 0
    image = torch.arange(len(labels), device=labels.device)[:, None]  # (B, 1)
    place = assigned.clamp(min=0)
    # All places are computed, also those that stand for nothing, and count nothing then: picking
    # out the others would have the host wait for the device.
    # Each class answers yes or no: a query for nothing has zeros only, and no class of its own.
    classes = torch.zeros_like(predictions.logits)
    own = labels[image, place].clamp(min=0)[..., None]  # (K, B, Q, 1)
    classes.scatter_(-1, own, matched[..., None].to(classes.dtype))
    focal = sigmoid_focal_loss(predictions.logits, classes, alpha=ALPHA, gamma=GAMMA)
    wanted = boxes[image, place]  # (K, B, Q, 4)
    weight = weights * matched  # (K, B, Q)
    overlap = giou_loss(corners(predictions.boxes), corners(wanted))
    sums = {
        "class": (focal.sum(-1) * weights).sum(),
        "l1": ((predictions.boxes - wanted).abs().sum(-1) * weight).sum(),
        "giou": (overlap * weight).sum(),
    }
    return {name: WEIGHTS[name] * value for name, value in sums.items()}
