"""Contrastive denoising: noisy copies of an image's objects that the decoder repairs or rejects.

DINO, 3.2 and 3.3. A group holds each object twice: a near copy, to be repaired, and a far one, to
be rejected. Groups and queries do not see each other, so no query learns where the objects are.
(DN-DETR, 4.2, lets denoising queries look at the others and reports that it makes no difference;
here neither side looks, so the two can be tested and averaged apart.)

An image has as many groups as its own objects allow, and its noise is a function of its seed, so
that neither depends on the rest of the batch. (The authors count groups by the fullest image of
the batch.)

Shapes: B images, M places for objects, D places for copies, Q queries of any sort.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from itpn_ray.models.detection.dino.boxes import corners
from itpn_ray.models.detection.dino.config import DeformableConfig
from itpn_ray.rng import Stream, uniform_torch

EMPTY = -1  # the group of a place that holds no query
FREE = 0  # the group of the queries that are matched; copies are in groups 1, 2, ...
_DRAWS = 10  # random numbers a copy: is its class changed, to which, 4 signs, 4 shifts


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Noisy copies of a batch's objects."""

    labels: Tensor
    """(B, D) int64: the classes that the copies are given."""
    boxes: Tensor
    """(B, D, 4): their boxes in shares of the image."""
    groups: Tensor
    """(B, D) int64: from 1, or EMPTY."""
    assigned: Tensor
    """(B, D) int64: the object that a near copy stands for; -1 for far copies and empty places."""
    weights: Tensor
    """(B, D) float32: one over the image's groups; 0 at empty places."""

    @property
    def places(self) -> int:
        """D."""
        return self.labels.shape[1]


def make_copies(
    boxes: Tensor, labels: Tensor, seeds: Tensor, config: DeformableConfig, *, far: bool = True
) -> Copies:
    """Noisy copies of objects.

    Args:
        boxes: (B, M, 4) float32 in shares of the image.
        labels: (B, M) int64, -1 where there is no object.
        seeds: (B,) int64: all noise of an image is a function of its seed.
        config: number of copies, and noise.
        far: whether each comes with a far copy, to be rejected.
    """
    count = (labels >= 0).sum(1, keepdim=True)  # (B, 1)
    objects = (labels < 0).int().argsort(dim=1, stable=True)  # (B, M): places, objects first
    divisor = count.clamp(min=1)
    # (B, 1): as many groups as the places for copies hold, but one at least.
    groups = (config.denoising // divisor).clamp(min=1)
    sorts = 2 if far else 1
    used = sorts * count * groups
    # As many places for every batch: how many are used, the host would have to wait for.
    places = sorts * max(config.denoising, labels.shape[1])
    place = torch.arange(places, device=boxes.device)[None]  # (1, D)
    filled = place < used
    # A group has all its near copies first, then all far ones.
    near = filled & (place // divisor % sorts == 0)
    source = objects.gather(1, place % divisor)  # (B, D)
    draws = uniform_torch(0, 0, seeds, Stream.DENOISING, place.shape[1] * _DRAWS)
    draws = draws.unflatten(1, (-1, _DRAWS))  # (B, D, 10)
    return Copies(
        labels=_change(labels.gather(1, source).clamp(min=0), draws[..., :2], config),
        boxes=_shift(boxes.gather(1, source[..., None].expand(-1, -1, 4)), draws, near, config),
        groups=torch.where(filled, place // (sorts * divisor) + 1, EMPTY),
        assigned=torch.where(near, source, -1),
        # By groups, so that an object counts once however often it is copied.
        weights=filled / groups,
    )


def visibility(groups: Tensor) -> Tensor:
    """Who sees whom: (B, Q) groups to (B, 1, Q, Q) bool, [b, 0, q, k] whether q sees k."""
    return (groups[:, :, None] == groups[:, None, :])[:, None]


def _change(labels: Tensor, draws: Tensor, config: DeformableConfig) -> Tensor:
    """Some labels (B, D) replaced by any class."""
    # Half of label_noise, as the authors' code has it.
    changed = draws[..., 0] < config.label_noise / 2
    drawn = (draws[..., 1] * config.num_classes).long()
    return torch.where(changed, drawn.clamp(max=config.num_classes - 1), labels)  # may round up


def _shift(boxes: Tensor, draws: Tensor, near: Tensor, config: DeformableConfig) -> Tensor:
    """Boxes (B, D, 4) with each side moved, by less than half their size (near) or by more."""
    sign = torch.where(draws[..., 2:6] < 0.5, -1.0, 1.0)
    # Near copies move by 0 to 1 half sides times the noise, far ones by 1 to 2.
    step = draws[..., 6:] + torch.where(near, 0.0, 1.0)[..., None]
    half = boxes[..., 2:].repeat(1, 1, 2) / 2 * config.box_noise
    first, last = (corners(boxes) + sign * step * half).clamp(0, 1).chunk(2, dim=-1)
    # A far copy's sides may have passed each other; its size is then 0, as the authors have it.
    return torch.cat([(first + last) / 2, (last - first).clamp(min=0)], dim=-1)
