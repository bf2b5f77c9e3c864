from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from itpn_ray.models import create_dense
from itpn_ray.models.layers.position import (
    gather_pairs,
    relative_index,
    resize_relative_table,
    resize_table,
    sincos_table,
)


def test_fixed_codes_by_hand():
    table = sincos_table(16, 3)[0].view(3, 3, 16).numpy()
    frequencies = 1 / 10000 ** (np.arange(4) / 4)
    row, column = 2, 1
    expected = np.concatenate(
        [f(at * frequencies) for at in (column, row) for f in (np.sin, np.cos)]
    )
    np.testing.assert_allclose(table[row, column], expected, atol=1e-6)


def test_a_table_of_the_right_size_is_left_alone():
    table = torch.randn(1, 9, 4)
    assert resize_table(table, (3, 3), 0.1) is table
    assert resize_table(table, (3, 3), 0.0, always=True) is table


def test_resizing_without_offset_is_bicubic():
    table = torch.randn(1, 16, 5)
    ours = resize_table(table, (6, 3), 0.0)
    plane = table.view(1, 4, 4, 5).permute(0, 3, 1, 2)
    expected = F.interpolate(plane, size=(6, 3), mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, expected.reshape(1, 18, 5))


def test_an_offset_moves_the_sampling_points():
    table = torch.randn(1, 16, 5)
    ours = resize_table(table, (6, 3), 0.1)
    plane = table.view(1, 4, 4, 5).permute(0, 3, 1, 2)
    scale = (6.1 / 4, 3.1 / 4)
    expected = F.interpolate(plane, scale_factor=scale, mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, expected.reshape(1, 18, 5))
    assert not torch.allclose(ours, resize_table(table, (6, 3), 0.0))
    assert not torch.allclose(resize_table(table, (4, 4), 0.1, always=True), table)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (14, 14), (17, 64)])
def test_every_grid_can_be_had_from_every_table(grid):
    for side in (1, 5, 14, 40):
        assert resize_table(torch.randn(1, side**2, 2), grid, 0.1).shape == (
            1,
            grid[0] * grid[1],
            2,
        )


def test_the_index_tells_offsets_apart():
    height, width = 3, 4
    index = relative_index((height, width))
    for query in range(12):
        for key in range(12):
            down = query // width - key // width
            across = query % width - key % width
            expected = (down + height - 1) * (2 * width - 1) + across + width - 1
            assert index[query, key] == expected


def test_pairs_of_visible_tokens():
    index = relative_index((3, 3))
    visible = torch.tensor([[8, 0], [4, 5]])
    pairs = gather_pairs(index, visible)
    assert pairs.tolist() == [
        [[index[8, 8], index[8, 0]], [index[0, 8], index[0, 0]]],
        [[index[4, 4], index[4, 5]], [index[5, 4], index[5, 5]]],
    ]


def test_offset_tables_are_resized_by_offset():
    table = torch.randn(25, 2)  # for a grid of 3 x 3
    assert resize_relative_table(table, (3, 3)) is table
    ours = resize_relative_table(table, (4, 2))
    plane = table.t().view(1, 2, 5, 5)
    expected = F.interpolate(plane, size=(7, 3), mode="bicubic").view(2, 21).t()
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_resized_table_keeps_its_type(dtype):
    table = sincos_table(16, 4).to(dtype)
    assert resize_table(table, (3, 5)).dtype == dtype
    assert resize_relative_table(torch.randn(49, 2, dtype=dtype), (3, 5)).dtype == dtype


@pytest.mark.parametrize("changes", [{}, {"relative_position": True}])
def test_a_network_cast_to_bfloat16_stays_in_it_at_any_size(changes):
    maps = create_dense("nano", image_size=64, **changes).bfloat16().eval()
    images = torch.randn(1, 3, 96, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        assert {x.dtype for x in maps(images).values()} == {torch.bfloat16}
