"""Masks of DINO's queries (Li et al., "Mask DINO", CVPR 2023).

A mask is the product of a query with features of stride 4, which the encoder's finest map is joined
with. Only what lies in its object's box is ever read of it, so it is learned in the box and in a
margin around it; MaskDINO, whose masks are of whole images, learns all of the image.

Shapes: K sets of predictions (layers), B images, Q queries, C channels, M places for objects, N
pairs of a query and an object, P points of an object, S cells along a mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.models.detection.base import UNKNOWN, Targets
from itpn_ray.models.detection.dino.config import NORM_GROUPS
from itpn_ray.rng import Stream, uniform_torch

STRIDE = 4  # of the features, pixels
POINTS = 128
"""Of an object, that its mask is judged at."""
MARGIN = 0.25
"""Around a box, in its sides: a box that is found lies beside the object's own by less."""
CELLS = 28
"""Along the mask of a detection, as Mask R-CNN has them."""
WEIGHTS = {"mask": 5.0, "dice": 5.0}
"""Of the losses (the MaskDINO authors')."""


def feature_layers(channels: int, width: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """What turns a map of stride 4, (B, channels, h, w), into features (B, width, h, w)."""
    lateral = nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(NORM_GROUPS, width)
    )
    smooth = nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.GroupNorm(NORM_GROUPS, width),
        nn.ReLU(),
    )
    return lateral, smooth, nn.Conv2d(width, width, 1)


def join_features(
    layers: Iterable[nn.Module], finest: Tensor, tokens: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Features (B, C, h, w) of the finest map and of the encoder's finest one.

    Args:
        layers: see `feature_layers`.
        finest: (B, channels, h, w), the map that the encoder does not see.
        tokens: (B, S, C) of the encoder, its finest map first.
        shape: rows and columns of that.
    """
    lateral, smooth, last = layers
    rows, columns = shape
    encoded = tokens[:, : rows * columns].transpose(1, 2).unflatten(2, (rows, columns))
    beside = lateral(finest)
    coarse = F.interpolate(encoded, beside.shape[-2:], mode="bilinear", align_corners=False)
    features: Tensor = last(smooth(beside + coarse))
    return features


@dataclass(frozen=True, kw_only=True)
class ObjectPoints:
    """Points in and around the objects of B images."""

    features: Tensor
    """(B, M, P, C) float32."""
    inside: Tensor
    """(B, M, P) float32, 1 where the object's mask is, else 0."""
    known: Tensor
    """(B, M) float32, 0 where an object has no mask."""


def draw_points(features: Tensor, targets: Targets, sizes: Tensor) -> ObjectPoints:
    """Points of each object, as functions of its image's seed.

    Args:
        features: (B, C, h, w) of the padded images.
        targets: the objects, with masks.
        sizes: (B, 2) height and width of the images' valid parts, pixels.
    """
    assert targets.masks is not None
    batch, places = targets.labels.shape
    draws = uniform_torch(0, 0, targets.seeds, Stream.POINTS, places * POINTS * 2)
    draws = draws.view(batch, places, POINTS, 2)
    corner, side = targets.boxes[..., :2], targets.boxes[..., 2:] - targets.boxes[..., :2]
    # In shares of the box, from -MARGIN to 1 + MARGIN; then in pixels, within the image.
    shares = (1 + 2 * MARGIN) * draws - MARGIN
    pixels = corner[:, :, None] + shares * side[:, :, None]
    limit = sizes.flip(-1)[:, None, None].to(pixels)  # width, height
    pixels = torch.minimum(pixels, limit).clamp(min=0)
    # Cut back into shares, for points at the border have been moved.
    shares = (pixels - corner[:, :, None]) / side[:, :, None].clamp(min=1e-6)
    cells = targets.masks.shape[-1]
    columns, rows = (shares.clamp(0, 1) * cells).long().clamp(max=cells - 1).unbind(-1)
    truth = targets.masks.flatten(2).gather(2, rows * cells + columns)
    in_box = ((shares >= 0) & (shares <= 1)).all(-1)
    known = (targets.labels >= 0) & (targets.masks[:, :, 0, 0] != UNKNOWN)
    return ObjectPoints(
        features=_read(features, pixels.flatten(1, 2)).unflatten(1, (places, POINTS)),
        inside=((truth == 1) & in_box).float(),
        known=known.float(),
    )


def pairs_of_objects(assigned: Tensor, places: int) -> tuple[Tensor, Tensor, Tensor]:
    """The query that each object was given to.

    Args:
        assigned: (K, B, Q) int64, the object of each query, or -1.
        places: M.

    Returns:
        Queries (K, B, M) int64; objects (K, B, M) int64; and weights (K, B, M) float32, 0 where an
        object was given to none.
    """
    place = torch.arange(places, device=assigned.device)
    own = assigned[:, :, None] == place[:, None]  # (K, B, M, Q)
    # argmax finds the first True; where there is none the weight is 0.
    query = own.int().argmax(-1)
    return query, place.expand_as(query), own.any(-1).float()


def pairs_of_copies(assigned: Tensor, weights: Tensor, sets: int) -> tuple[Tensor, Tensor, Tensor]:
    """Likewise for noisy copies, (B, D): each with its own object; N = D."""
    shape = (sets, *assigned.shape)
    copy = torch.arange(assigned.shape[1], device=assigned.device)
    weight = weights * (assigned >= 0)
    return copy.expand(shape), assigned.clamp(min=0).expand(shape), weight.expand(shape)


def mask_losses(
    queries: Tensor, pairs: tuple[Tensor, Tensor, Tensor], points: ObjectPoints
) -> dict[str, Tensor]:
    """The losses "mask" (binary cross-entropy) and "dice", weighted, summed over layers and pairs.

    Args:
        queries: (K, B, Q, C) float32.
        pairs: see `pairs_of_objects`.
        points: of the objects.
    """
    image = torch.arange(len(points.known), device=queries.device)[:, None]
    sums = {name: queries.new_zeros(()) for name in WEIGHTS}
    # Layer by layer, as points are copied for each pair.
    for query, place, weight, masks in zip(*pairs, queries, strict=True):
        own = masks[image, query]  # (B, N, C)
        logits = (points.features[image, place] @ own[..., None])[..., 0]  # (B, N, P)
        truth, weight = points.inside[image, place], weight * points.known[image, place]
        crossed = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(-1)
        found = logits.sigmoid()
        # 1 is added above and below, so that an object without points has a quotient too.
        common = 2 * (found * truth).sum(-1) + 1
        dice = 1 - common / (found.sum(-1) + truth.sum(-1) + 1)
        sums["mask"] = sums["mask"] + (crossed * weight).sum()
        sums["dice"] = sums["dice"] + (dice * weight).sum()
    return {name: WEIGHTS[name] * value for name, value in sums.items()}


def read_masks(features: Tensor, queries: Tensor, boxes: Tensor) -> Tensor:
    """Masks of one image as `Detections` have them, (n, S, S) float32 probabilities.

    Args:
        features: (C, h, w) of the padded image.
        queries: (n, C), one for each box.
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
    """
    # Of the whole image first: a product is linear, and so is what is read of it between cells.
    logits = (queries.float() @ features.float().flatten(1)).unflatten(1, features.shape[1:])
    centres = (torch.arange(CELLS, device=boxes.device) + 0.5) / CELLS
    down, across = torch.meshgrid(centres, centres, indexing="ij")
    shares = torch.stack([across, down], dim=-1).flatten(0, 1)  # (S * S, 2): x, y
    pixels = boxes[:, None, :2] + shares * (boxes[:, 2:] - boxes[:, :2])[:, None]
    seen = _read(logits[:, None], pixels)  # (n, S * S, 1)
    return seen.view(-1, CELLS, CELLS).sigmoid()


def _read(features: Tensor, pixels: Tensor) -> Tensor:
    """Features (B, C, h, w) at pixels (B, n, 2), x and y: (B, n, C) float32, bilinear."""
    height, width = (STRIDE * side for side in features.shape[-2:])
    # grid_sample counts from -1 to 1.
    places = torch.stack([2 * pixels[..., 0] / width, 2 * pixels[..., 1] / height], dim=-1) - 1
    seen = F.grid_sample(
        features.float(), places[:, None], padding_mode="border", align_corners=False
    )
    return seen[:, :, 0].transpose(1, 2)
