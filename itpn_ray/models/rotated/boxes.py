"""Turned boxes: their corners, their hulls, and how they follow from horizontal ones.

A turned box is (x, y, w, h, angle): its centre, its longer side w, its shorter side h, in pixels,
and the angle from the x axis to the longer side in radians, in [-pi/2, pi/2), positive where x
turns towards y: clockwise as images are shown, for y points down. This is the "le90" convention;
docs/how-to/rotated.md has a drawing.

Shapes: boxes (..., 5), horizontal boxes (..., 4) x1, y1, x2, y2, corners (..., 4, 2).
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

TURNED = 5  # numbers of a turned box
_QUARTER = math.pi / 2
# Of dx, dy, dw, dh and the angle; the inverse of mmrotate's standard deviations.
_WEIGHTS = (10.0, 10.0, 5.0, 5.0, 10.0)
# Angles of +-pi are +-1/2 before they are weighted (mmrotate's norm_factor).
_TURN = 2 * math.pi
_LARGEST = math.log(1000 / 16)  # of a logarithm of sides: a box never changes more at once
_PAIRS = tuple(combinations(range(4), 2))


def normal_form(boxes: Tensor) -> Tensor:
    """The same boxes in the convention: the longer side first, the angle in [-pi/2, pi/2)."""
    x, y, width, height, angle = boxes.unbind(-1)
    upright = width < height
    # Exchanged sides are a quarter turn.
    angle = torch.where(upright, angle + _QUARTER, angle)
    angle = torch.remainder(angle + _QUARTER, math.pi) - _QUARTER
    # The remainder of a number just below 0 is rounded to pi itself.
    angle = torch.where(angle >= _QUARTER, angle - math.pi, angle)
    longer, shorter = torch.maximum(width, height), torch.minimum(width, height)
    return torch.stack([x, y, longer, shorter, angle], dim=-1)


def corners_of(boxes: Tensor) -> Tensor:
    """The corners of boxes in turn, (..., 4, 2): clockwise as images are shown."""
    centre, sides, angle = boxes[..., :2], boxes[..., 2:4], boxes[..., 4]
    along = torch.stack([angle.cos(), angle.sin()], dim=-1) * sides[..., :1] / 2
    across = torch.stack([-angle.sin(), angle.cos()], dim=-1) * sides[..., 1:] / 2
    steps = [-along - across, along - across, along + across, across - along]
    return torch.stack([centre + step for step in steps], dim=-2)


def from_corners(corners: Tensor) -> Tensor:
    """The smallest turned boxes around four corners each, (..., 4, 2) to (..., 5).

    The smallest rectangle around points has a side along one of their hull; all lines through two
    of the corners are tried.
    """
    # A smallest box has a side along an edge of the hull, and that is one of six pairs of corners.
    ends = torch.stack([corners[..., j, :] - corners[..., i, :] for i, j in _PAIRS], dim=-2)
    angles = torch.atan2(ends[..., 1], ends[..., 0])  # (..., 6)
    axes = torch.stack([angles.cos(), angles.sin(), -angles.sin(), angles.cos()], dim=-1)
    axes = axes.unflatten(-1, (2, 2))  # (..., 6, axis, xy)
    # From the first corner, so that no digits are lost to where in an image the box lies.
    origin = corners[..., :1, :]
    places = torch.einsum("...fax,...px->...fap", axes, corners - origin)  # (..., 6, axis, 4)
    low, high = places.amin(dim=-1), places.amax(dim=-1)  # (..., 6, axis)
    chosen = (high - low).prod(dim=-1).argmin(dim=-1)[..., None]  # (..., 1)
    angle = angles.gather(-1, chosen)
    pair = chosen[..., None].expand(*chosen.shape, 2)  # (..., 1, 2)
    low, high = low.gather(-2, pair)[..., 0, :], high.gather(-2, pair)[..., 0, :]  # (..., 2)
    grid = pair[..., None].expand(*pair.shape, 2)
    axis = axes.gather(-3, grid)[..., 0, :, :]  # (..., axis, xy)
    centre = torch.einsum("...a,...ax->...x", (low + high) / 2, axis) + origin[..., 0, :]
    return normal_form(torch.cat([centre, high - low, angle], dim=-1))


def hulls_of(boxes: Tensor) -> Tensor:
    """The horizontal boxes around turned ones, (..., 4)."""
    corners = corners_of(boxes)
    return torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1)


def encode(boxes: Tensor, targets: Tensor) -> Tensor:
    """What leads from horizontal boxes (n, 4) to turned ones (n, 5): weighted offsets (n, 5).

    Of the two descriptions of a target the one that is turned less is taken, so that no target
    jumps where its angle passes pi/2 (mmrotate's DeltaXYWHAHBBoxCoder with edge_swap).
    """
    size = boxes[:, 2:] - boxes[:, :2]
    shift = (targets[:, :2] - boxes[:, :2] - size / 2) / size
    angle = torch.remainder(targets[:, 4] + _QUARTER, math.pi) - _QUARTER
    # Nearer to upright with its sides exchanged.
    swap = angle.abs() > _QUARTER / 2
    sides = torch.where(swap[:, None], targets[:, 2:4].flip(-1), targets[:, 2:4])
    angle = torch.where(swap, angle - _QUARTER * angle.sign(), angle)
    offsets = torch.cat([shift, (sides / size).log(), angle[:, None] / _TURN], dim=1)
    return offsets * offsets.new_tensor(_WEIGHTS)


def decode(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Where deltas (n, 5) lead from horizontal boxes (n, 4), (n, 5): the inverse of `encode`."""
    shift, growth, turn = (deltas / deltas.new_tensor(_WEIGHTS)).split((2, 2, 1), dim=1)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + size / 2 + shift * size
    sides = growth.clamp(-_LARGEST, _LARGEST).exp() * size
    return normal_form(torch.cat([centre, sides, turn * _TURN], dim=1))
