"""Turned boxes: their convention, corners, and offsets from horizontal ones."""

from __future__ import annotations

import math

import pytest
import torch

from itpn_ray.models.rotated.boxes import (
    corners_of,
    decode,
    encode,
    from_corners,
    hulls_of,
    normal_form,
)
from itpn_ray.models.rotated.overlap import rotated_iou
from tests.models.rotated.test_overlap import drawn


def test_the_convention() -> None:
    boxes = normal_form(drawn(300, 1))
    assert (boxes[:, 2] >= boxes[:, 3]).all()
    assert ((boxes[:, 4] >= -math.pi / 2) & (boxes[:, 4] < math.pi / 2)).all()
    assert rotated_iou(boxes, drawn(300, 1)).min() > 1 - 1e-9
    torch.testing.assert_close(normal_form(boxes), boxes)


@pytest.mark.parametrize("angle", [-math.pi / 2 - 1e-9, math.pi / 2, 3 * math.pi / 2, -1e-9])
def test_angles_at_the_edge_stay_in_the_range(angle: float) -> None:
    for dtype in (torch.float32, torch.float64):
        box = normal_form(torch.tensor([0.0, 0.0, 4.0, 2.0, angle], dtype=dtype))
        limit = torch.tensor(math.pi / 2, dtype=dtype)
        assert -limit <= box[4] < limit


def test_an_angle_turns_x_towards_y() -> None:
    """As docs/how-to/rotated.md draws it: 30 degrees, downwards to the right."""
    box = torch.tensor([10.0, 20.0, 8.0, 2.0, math.pi / 6], dtype=torch.float64)
    end = corners_of(box)[1:3].mean(dim=0)  # the middle of the shorter side ahead
    assert end.tolist() == pytest.approx([10 + 4 * math.cos(math.pi / 6), 22])


def test_corners_lead_back_to_the_box() -> None:
    boxes = normal_form(drawn(300, 2))
    found = from_corners(corners_of(boxes))
    assert rotated_iou(found, boxes).min() > 1 - 1e-9
    torch.testing.assert_close(found[:, :4], boxes[:, :4])
    reversed_found = from_corners(corners_of(boxes).flip(1))
    torch.testing.assert_close(reversed_found[:, :4], boxes[:, :4])


def test_four_corners_that_are_no_rectangle_get_the_smallest_around_them() -> None:
    corners = torch.tensor([[0.0, 0.0], [10.0, 1.0], [9.0, 5.0], [-1.0, 4.0]]).double()
    found = from_corners(corners)
    angles = torch.linspace(-math.pi / 2, math.pi / 2, 3601).double()
    axes = torch.stack([angles.cos(), angles.sin(), -angles.sin(), angles.cos()], dim=-1)
    places = axes.view(-1, 2, 2) @ corners.T
    sides = places.amax(-1) - places.amin(-1)
    assert found[2] * found[3] <= sides.prod(-1).min() + 1e-9
    inside = (corners_of(found)[None] - corners[:, None]).norm(dim=-1)
    assert inside.isfinite().all()


def test_corners_without_area_make_a_box_without_area() -> None:
    for corners in ([[1.0, 1.0]] * 4, [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]):
        found = from_corners(torch.tensor(corners))
        assert found.isfinite().all()
        assert found[3] == pytest.approx(0, abs=1e-6)


def test_hulls_touch_all_sides() -> None:
    boxes = drawn(100, 3)
    corners, hulls = corners_of(boxes), hulls_of(boxes)
    torch.testing.assert_close(hulls[:, :2], corners.amin(dim=1))
    torch.testing.assert_close(hulls[:, 2:], corners.amax(dim=1))


def test_offsets_lead_back() -> None:
    boxes = drawn(400, 4)
    boxes[:, 2:4] = torch.maximum(boxes[:, 2:4], torch.tensor([9.0, 4.0]))
    boxes = boxes[(boxes[:, 2] - boxes[:, 3]).abs() > 0.1]  # the angle of a square is any
    boxes = normal_form(boxes)
    proposals = hulls_of(boxes) + torch.tensor([1.0, -2.0, 3.0, 1.0])
    deltas = encode(proposals, boxes)
    torch.testing.assert_close(decode(proposals, deltas), boxes)
    # Of the two descriptions the one that is turned less: at most an eighth of a turn.
    assert (deltas[:, 4].abs() <= 10 * 0.125 + 1e-9).all()


def test_offsets_hardly_change_where_the_angle_jumps() -> None:
    """A tall box just before and just behind upright: its angles are nearly pi apart."""
    boxes = torch.tensor(
        [[0.0, 0.0, 20.0, 8.0, a] for a in (-math.pi / 2 + 1e-4, math.pi / 2 - 1e-4)]
    )
    deltas = encode(hulls_of(boxes), boxes)
    assert (deltas[0] - deltas[1]).abs().max() < 0.01
