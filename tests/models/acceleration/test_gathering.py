from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.acceleration.gathering import (
    REACH,
    Gathering,
    Windows,
    offset_bias,
    read_gathered,
)
from itpn_ray.models.layers.blocks import Attention, Block
from itpn_ray.models.layers.position import relative_index
from tests.models.nets import classifier, dense, make_images, stir

grids = st.tuples(st.integers(1, 24), st.integers(1, 24))


@given(grids, st.integers(0, 20))
def test_windows_cover_the_grid_and_hardly_more(grid: tuple[int, int], largest: int) -> None:
    windows = Windows.cover(grid, largest)
    for length, count, side, over in zip(
        grid, windows.count, windows.side, windows.padding, strict=True
    ):
        assert side <= (largest or length)
        assert count == math.ceil(length / (largest or length))
        assert 0 <= over < count  # less than one token a window, and no window is empty
        assert (count - 1) * side < length


@settings(deadline=None)
@given(grids, st.integers(0, 9), st.integers(1, 3))
def test_windows_split_and_join(grid: tuple[int, int], largest: int, batch: int) -> None:
    """Each window against a slice of the padded map; joining gives the map back."""
    windows = Windows.cover(grid, largest)
    x = torch.randn(batch, grid[0] * grid[1], 2)
    rows = windows.split(x)
    assert rows.shape == (batch * windows.number, windows.places, 2)
    assert torch.equal(windows.join(rows), x)
    plane = F.pad(x.view(batch, *grid, 2), (0, 0, 0, windows.padding[1], 0, windows.padding[0]))
    (height, width), (_, across) = windows.side, windows.count
    for number in range(windows.number):
        top, left = number // across * height, number % across * width
        part = plane[-1, top : top + height, left : left + width].flatten(0, 1)
        assert torch.equal(rows[(batch - 1) * windows.number + number], part)


def test_outside_marks_the_padding() -> None:
    windows = Windows.cover((5, 3), 3)  # two windows of 3 x 3, the lower one a row too far
    outside = windows.outside(torch.device("cpu"))
    assert outside.tolist() == [[False] * 9, [False] * 6 + [True] * 3]
    assert Windows.cover((6, 3), 3).outside(torch.device("cpu")) is None


def attention_formula(
    block: Block, x: Tensor, source: Tensor, bias: Tensor | float = 0.0
) -> Tensor:
    """One block's attention from tokens x (B, n, C) to tokens (B, m, C), head by head."""
    attention, width = block.attention, x.shape[-1]
    size = width // attention.heads
    weight = attention.qkv.weight
    if attention.q_bias is None:
        biases = attention.qkv.bias.chunk(3)
    else:
        biases = (attention.q_bias, torch.zeros(width), attention.v_bias)
    q = block.norm1(x) @ weight[:width].T + biases[0]
    k = block.norm1(source) @ weight[width : 2 * width].T + biases[1]
    v = block.norm1(source) @ weight[2 * width :].T + biases[2]
    heads = []
    for head in range(attention.heads):
        part = slice(head * size, (head + 1) * size)
        scores = q[..., part] @ k[..., part].mT / math.sqrt(size)
        scores = scores + (bias if isinstance(bias, float) else bias[head])
        heads.append(scores.softmax(-1) @ v[..., part])
    return attention.proj(torch.cat(heads, dim=-1))


def gathered_formula(net: torch.nn.Module, x: Tensor) -> Tensor:
    """Stage 3 with one window on tokens with position (B, N, C), after paper 4.2 and Fig. 4."""
    trunk = net.trunk
    x = torch.cat([trunk.gathering.token.expand(x.shape[0], -1, -1), x], dim=1)
    for block in trunk.stage3:
        x = x + block.scale1 * attention_formula(block, x, x)
        x = x + block.scale1 * attention_formula(block, x, x[:, :1])
        x = x + block.scale2 * block.mlp(block.norm2(x))
    return x[:, 1:]


@torch.no_grad()
def test_one_window_equals_the_formula() -> None:
    net = classifier()
    net.set_gathering(4)
    stir(net.trunk.gathering)
    images = make_images(2, 64)
    _, _, x = net.trunk.early(images, None, None)
    expected = gathered_formula(net, x + net.trunk.positions((4, 4)))
    found = net.trunk.stages(images)[2].flatten(1, 3)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.std()))
    pooled = net.head(net.norm(expected.mean(1)))
    assert torch.allclose(net(images), pooled, atol=1e-4 * float(pooled.std()))


@torch.no_grad()
@pytest.mark.parametrize("key_bias", [True, False])
def test_reading_equals_plain_cross_attention(key_bias: bool) -> None:
    """Several windows, with and without bias between them."""
    block = Block(Attention(16, 4, key_bias=key_bias), torch.nn.Identity(), 16, layer_scale=0.5)
    stir(block)
    x = torch.randn(2 * 6, 1 + 5, 16)
    bias = torch.randn(4, 6, 6)
    keep = torch.tensor([0.5, 2.0])
    plain = read_gathered(block, x, 6)
    weighed = read_gathered(block, x, 6, bias, keep)
    for image in range(2):
        rows = slice(6 * image, 6 * image + 6)
        tokens, gathered = x[rows], x[rows][:, 0]
        read = attention_formula(block, tokens.flatten(0, 1), gathered).view_as(tokens)
        assert torch.allclose(plain[rows], tokens + block.scale1 * read, atol=1e-4)
        for window in range(6):
            read = attention_formula(block, tokens[window], gathered, bias[:, window, None])
            expected = tokens[window] + keep[image] * block.scale1 * read
            assert torch.allclose(weighed[rows][window], expected, atol=1e-4)


@torch.no_grad()
def test_one_window_without_gathering_is_the_plain_network() -> None:
    net, images = classifier(), make_images(2, 64)
    expected = net(images)
    net.set_gathering(4, gathering=False)
    assert torch.equal(net(images), expected)


@torch.no_grad()
@pytest.mark.parametrize("gathering", [False, True])
def test_windows_see_each_other_through_gathering_tokens_only(gathering: bool) -> None:
    net = classifier(depths=(1, 1, 2))
    net.set_gathering(2, gathering=gathering)
    images = make_images(1, 64)
    changed = images.clone()
    changed[:, :, :16, :16] += 1.0  # the first patch, of the first window of 2 x 2
    before, after = (net.trunk.stages(part)[2].view(4, 4, -1) for part in (images, changed))
    moved = (before != after).any(-1)
    assert bool(moved[:2, :2].all())
    assert bool(moved[2:, 2:].any()) == gathering


@torch.no_grad()
def test_padded_windows_see_only_the_image() -> None:
    """A 5 x 3 grid in windows of up to 3: the same as the two parts of 3 x 3 and 2 x 3 alone."""
    net = classifier(depths=(1, 1, 3))
    net.set_gathering(3, gathering=False)
    tokens = torch.randn(2, 15, 32)
    found, _ = net.trunk.late(tokens, (5, 3))
    net.set_gathering(0)
    upper, _ = net.trunk.late(tokens[:, :9], (3, 3))
    lower, _ = net.trunk.late(tokens[:, 9:], (2, 3))
    assert torch.allclose(found, torch.cat([upper, lower], dim=1), atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(5, 7))
def test_offsets_look_up_the_middle_of_the_table(side: tuple[int, int], largest: int) -> None:
    table = torch.randn(2, 2 * largest - 1, 2 * largest - 1)
    bias = offset_bias(table, side, relative_index(side))
    places = [(row, column) for row in range(side[0]) for column in range(side[1])]
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            down, across = query[0] - key[0], query[1] - key[1]
            entry = table[:, largest - 1 + down, largest - 1 + across]
            assert torch.equal(bias[:, i, j], entry)


def test_windows_further_apart_than_the_reach_share_a_bias() -> None:
    acceleration = Acceleration(window=1, gathering=True, relative_position="windows+cross")
    gathering = Gathering(acceleration, 8, 2, 1, own_tables=False)
    stir(gathering)
    across = gathering.across(0, Windows.cover((1, 12), 1))
    assert across.shape == (2, 12, 12)
    table = gathering.cross_bias[0]
    assert torch.equal(across[:, 0, 11], across[:, 0, REACH])
    assert torch.equal(across[:, 5, 3], table[:, REACH, REACH + 2])
    assert not torch.equal(across[:, 0, 1], across[:, 0, 2])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["windows", "windows+cross"])
def test_new_position_tables_change_nothing_until_they_learn(kind: str) -> None:
    net, images = dense(), make_images(1, 96, 64)
    net.set_gathering(3)
    token = net.trunk.gathering.token.clone()
    expected = net(images)
    net.set_gathering(3, relative_position=kind)
    net.trunk.gathering.token.copy_(token)
    for stride, found in net(images).items():
        assert torch.allclose(found, expected[stride], atol=1e-4)
    stir(net.trunk.gathering)
    net.trunk.gathering.token.copy_(token)
    assert not torch.allclose(net(images)[16], expected[16], atol=1e-2)


@torch.no_grad()
def test_position_inside_windows_equals_the_formula() -> None:
    """One window: HRPE on the tokens, none on the gathering token."""
    net = classifier(depths=(1, 1, 1))
    net.set_gathering(5, relative_position="windows")
    stir(net.trunk.gathering)
    x = torch.randn(2, 12, 32)
    block, gathering = net.trunk.stage3[0], net.trunk.gathering
    bias = torch.zeros(2, 13, 13)
    bias[:, 1:, 1:] = offset_bias(gathering.window_bias[0], (4, 3), relative_index((4, 3)))
    y = torch.cat([gathering.token.expand(2, -1, -1), x], dim=1)
    y = y + block.scale1 * attention_formula(block, y, y, bias[:, None])
    y = y + block.scale1 * attention_formula(block, y, y[:, :1])
    expected = (y + block.scale2 * block.mlp(block.norm2(y)))[:, 1:]
    found, _ = net.trunk.late(x, (4, 3))
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.std()))


@torch.no_grad()
def test_a_trunk_with_learned_offsets_keeps_them_inside_windows() -> None:
    net = classifier("itpn_base", depths=(1, 1, 2), relative_position=True)
    images = make_images(2, 80)
    expected = net(images)
    net.set_gathering(5, gathering=False, relative_position="windows")
    assert net.trunk.gathering is None
    assert torch.allclose(net(images), expected, atol=1e-4)
    net.set_gathering(5, gathering=False)
    assert torch.allclose(net(images), expected, atol=1e-4)


@torch.no_grad()
def test_other_switches_keep_what_was_learned() -> None:
    net = classifier(depths=(1, 1, 2))
    net.set_gathering(3, relative_position="windows+cross")
    stir(net.trunk.gathering)
    learned = {name: value.clone() for name, value in net.trunk.gathering.named_parameters()}
    images = make_images(1, 96)
    expected = net(images)
    net.set_gathering(3)
    assert torch.equal(net(images), expected)
    net.set_gathering(3, gathering=False)
    assert net.acceleration.relative_position == "windows"
    assert torch.equal(net.trunk.gathering.window_bias, learned["window_bias"])
    net.set_gathering(3, relative_position="windows+cross")
    assert torch.equal(net.trunk.gathering.window_bias, learned["window_bias"])
    token = net.trunk.gathering.token.clone()
    net.set_gathering(2)
    assert torch.equal(net.trunk.gathering.token, token)
    assert not net.trunk.gathering.window_bias.any()
    net.set_gathering(0)
    assert net.trunk.gathering is None
