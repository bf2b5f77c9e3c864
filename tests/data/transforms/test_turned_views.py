"""Views of rotated detection: flips and quarter turns are exact, rotations keep up with pixels."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from itpn_ray.data.annotations.tiles import TileObjects
from itpn_ray.data.config import RotatedAugmentConfig
from itpn_ray.data.transforms.turned_views import (
    TurnedView,
    training_tiles,
    turned_objects,
    whole_tile,
)
from itpn_ray.errors import ConfigError
from itpn_ray.models.rotated.boxes import corners_of

WIDTH, HEIGHT = 48, 32
IMAGE = torch.randint(
    256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
CORNERS = torch.tensor([[[4.25, 6.5], [20.0, 3.0], [21.5, 10.0], [5.75, 13.5]]]).double()


def view(**changes: object) -> TurnedView:
    plain = {"width": WIDTH, "height": HEIGHT, "scaled": (WIDTH, HEIGHT)}
    return TurnedView(**{**plain, **changes})  # type: ignore[arg-type]


def tile(corners: Tensor, crowds: list[bool] | None = None) -> TileObjects:
    count = len(corners)
    return TileObjects(
        path="a.png",
        image_id=1,
        size=(HEIGHT, WIDTH),
        ids=np.arange(count),
        classes=np.arange(count) % 3,
        boxes=np.zeros((count, 4)),
        areas=np.ones(count),
        crowds=np.array(crowds or [False] * count, dtype=np.bool_),
        polygons=[[corner.reshape(-1).tolist()] for corner in corners],
        runs=[[] for _ in range(count)],
        corners=corners.numpy(),
        difficult=np.zeros(count, dtype=np.bool_),
        origin=(0, 0),
    )


MOVES = list(product((False, True), (False, True), range(4)))


@pytest.mark.parametrize(("mirrored", "upside_down", "quarters"), MOVES)
def test_flips_and_quarter_turns_come_back_exactly(
    mirrored: bool, upside_down: bool, quarters: int
) -> None:
    there = view(mirrored=mirrored, upside_down=upside_down, quarters=quarters)
    size = {"width": there.out_width, "height": there.out_height}
    sides = {**size, "scaled": (there.out_width, there.out_height)}
    turned_back = TurnedView(**sides, quarters=-quarters % 4)  # type: ignore[arg-type]
    flipped_back = view(mirrored=mirrored, upside_down=upside_down)
    back = flipped_back.image(turned_back.image(there.image(IMAGE)))
    assert torch.equal(back, IMAGE)
    points = flipped_back.points(turned_back.points(there.points(CORNERS)))
    assert torch.equal(points, CORNERS)


@pytest.mark.parametrize(("mirrored", "upside_down", "quarters"), MOVES)
def test_corners_go_where_the_pixels_go(mirrored: bool, upside_down: bool, quarters: int) -> None:
    """A bright pixel, and the corners of it."""
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[:, 5, 11] = 255
    moved = view(mirrored=mirrored, upside_down=upside_down, quarters=quarters)
    seen = moved.image(image)
    assert seen.shape == (3, moved.out_height, moved.out_width)
    ((row, column),) = seen[0].nonzero().tolist()
    corners = moved.points(torch.tensor([[11.0, 5.0], [12.0, 5.0], [12.0, 6.0], [11.0, 6.0]]))
    assert corners.amin(dim=0).tolist() == [column, row]
    assert corners.amax(dim=0).tolist() == [column + 1, row + 1]


@pytest.mark.parametrize("angle", [0.3, -1.2, 2.5])
def test_a_rotation_moves_corners_with_the_pixels(angle: float) -> None:
    """The middle of what is bright stays the middle of the box around it."""
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[:, 10:22, 18:30] = 255
    moved = view(angle=angle)
    seen = moved.image(image)[0].double()
    rows, columns = torch.meshgrid(
        torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij"
    )
    middle = [(seen * places).sum() / seen.sum() for places in (columns, rows)]
    square = torch.tensor([[18.0, 10.0], [30.0, 10.0], [30.0, 22.0], [18.0, 22.0]]).double()
    expected = moved.points(square).mean(dim=0)
    assert [value.item() for value in middle] == pytest.approx(expected.tolist(), abs=0.1)


def test_a_turn_of_the_image_turns_the_boxes_by_as_much() -> None:
    box = torch.tensor([[24.0, 16.0, 20.0, 8.0, 0.2]]).double()
    objects = tile(corners_of(box))
    for angle in (0.5, -0.5, 1.0):
        found = turned_objects(objects, view(angle=angle)).boxes
        expected = torch.tensor([[24.0, 16.0, 20.0, 8.0, 0.2 + angle]])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    quarter = turned_objects(objects, view(quarters=1)).boxes
    expected = torch.tensor([[16.0, 24.0, 20.0, 8.0, 0.2 - math.pi / 2]])
    torch.testing.assert_close(quarter, expected, rtol=1e-5, atol=1e-5)
    mirrored = turned_objects(objects, view(mirrored=True)).boxes
    torch.testing.assert_close(mirrored[:, 4], torch.tensor([-0.2]), rtol=1e-5, atol=1e-5)


def test_what_is_learned_from() -> None:
    """Neither what is left out, nor slivers, nor what has been turned out of the view."""
    boxes = torch.tensor(
        [
            [10.0, 8.0, 12.0, 6.0, 0.1],
            [30.0, 8.0, 12.0, 6.0, 0.1],
            [30.0, 20.0, 12.0, 1.5, 0.1],
            [46.0, 30.0, 6.0, 5.0, 0.1],
        ]
    ).double()
    objects = tile(corners_of(boxes), [False, True, False, False])
    assert turned_objects(objects, view()).labels.tolist() == [0, 0]
    assert turned_objects(objects, view(angle=math.pi / 4)).labels.tolist() == [0]
    assert len(turned_objects(tile(CORNERS[:0]), view())) == 0


def test_sizes() -> None:
    seen = whole_tile(1024, 1024, 1024, 1024)
    assert (seen.out_width, seen.out_height) == (1024, 1024)
    smaller = whole_tile(712, 557, 1024, 1024)
    assert (smaller.out_width, smaller.out_height) == (1024, 801)
    assert whole_tile(100, 400, 200, 200).image(
        torch.zeros(3, 400, 100, dtype=torch.uint8)
    ).shape == (*(3, 200, 50),)


def drawn(epoch: int = 0, **settings: float) -> list[TurnedView]:
    config = RotatedAugmentConfig(side=64, **settings)  # type: ignore[arg-type]
    sides = [64] * 400
    return training_tiles(sides, sides, np.arange(400), seed=1, epoch=epoch, config=config)


def test_draws_are_shared_out_as_said() -> None:
    usual = drawn()
    kinds = [(each.mirrored, each.upside_down) for each in usual]
    assert all(60 < kinds.count(kind) < 140 for kind in product((False, True), repeat=2))
    assert all(each.quarters == 0 and each.angle == 0 for each in usual)
    turned = drawn(flip=0.0, quarter_turn=1.0, rotation=0.5)
    assert {each.quarters for each in turned} == {1, 2, 3}
    angles = [each.angle for each in turned if each.angle]
    assert 140 < len(angles) < 260
    assert min(angles) < -2.5 < 2.5 < max(angles)
    assert drawn() == usual
    assert drawn(epoch=1) != usual


@pytest.mark.parametrize("name", ["flip", "quarter_turn", "rotation"])
def test_probabilities(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"augment\.{name} = 1.5"):
        RotatedAugmentConfig(**{name: 1.5})
