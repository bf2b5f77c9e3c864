from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from itpn_ray.models.layers import blocks
from itpn_ray.models.layers.blocks import (
    Attention,
    Block,
    ConvLinear,
    Mlp,
    SwiGlu,
    add_branch,
    group_cells,
    initialise,
    patchify,
    spread_cells,
    to_map,
)


def test_patchify_and_a_linear_layer_are_the_convolution_of_stride_4():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 48)
    layer = ConvLinear(48, 8)
    cells = to_map(layer(patchify(images)), (2, 3))
    conv = F.conv2d(images, layer.weight.view(8, 3, 4, 4), layer.bias, stride=4)
    torch.testing.assert_close(cells, conv)


def test_patchify_takes_the_visible_patches_in_their_order():
    images = torch.randn(2, 3, 32, 48)
    visible = torch.tensor([[5, 0, 2], [1, 4, 3]])
    whole = patchify(images)
    seen = patchify(images, visible)
    for row in range(2):
        torch.testing.assert_close(seen[row], whole[row, visible[row]], rtol=0, atol=0)


def test_grouping_neighbours_and_a_linear_layer_are_the_convolution_of_stride_2():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4, 4, 5)
    weight = torch.randn(7, 5, 2, 2)
    ours = F.linear(group_cells(x), weight.permute(0, 2, 3, 1).flatten(1))
    conv = F.conv2d(to_map(x, (2, 3)), weight, stride=2)
    torch.testing.assert_close(to_map(ours, (2, 3)), conv)


def test_spreading_undoes_grouping():
    x = torch.randn(2, 3, 4, 4, 5)
    assert torch.equal(spread_cells(group_cells(x)), x)


@pytest.mark.parametrize("key_bias", [True, False])
def test_attention_by_hand(key_bias):
    torch.manual_seed(0)
    layer = Attention(12, 3, key_bias=key_bias)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x, bias = torch.randn(2, 5, 12), torch.randn(1, 3, 5, 5)
    q_weight, k_weight, v_weight = layer.qkv.weight.split(12)
    if key_bias:
        q_bias, k_bias, v_bias = layer.qkv.bias.split(12)
    else:
        q_bias, k_bias, v_bias = layer.q_bias, torch.zeros(12), layer.v_bias
    q = F.linear(x, q_weight, q_bias).view(2, 5, 3, 4).transpose(1, 2)
    k = F.linear(x, k_weight, k_bias).view(2, 5, 3, 4).transpose(1, 2)
    v = F.linear(x, v_weight, v_bias).view(2, 5, 3, 4).transpose(1, 2)
    shares = (q @ k.mT / 2 + bias).softmax(-1)
    expected = layer.proj((shares @ v).transpose(1, 2).reshape(2, 5, 12))
    torch.testing.assert_close(
        layer.attend(*layer.project(x), bias), expected, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(layer.project(x)[1], k)


def test_swiglu_by_hand():
    torch.manual_seed(0)
    layer = SwiGlu(4, 6)
    x = torch.randn(3, 4)
    gate_weight, value_weight = layer.w12.weight.split(6)
    gate_bias, value_bias = layer.w12.bias.split(6)
    hidden = F.silu(F.linear(x, gate_weight, gate_bias)) * F.linear(x, value_weight, value_bias)
    hidden = F.layer_norm(hidden, (6,), eps=1e-6)
    torch.testing.assert_close(layer(x), layer.w3(hidden))


def test_a_branch_is_scaled_by_channel_and_weighed_by_image():
    x, branch = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    out = add_branch(x, branch, torch.arange(4.0), torch.tensor([0.0, 2.0]))
    assert torch.equal(out[0], torch.zeros(3, 4))
    assert torch.equal(out[1], 2 * torch.arange(4.0).expand(3, 4))


def test_the_halves_of_a_block_make_the_block():
    torch.manual_seed(0)
    block = Block(Attention(8, 2, key_bias=True), Mlp(8, 16), 8, layer_scale=0.5)
    x = torch.randn(2, 4, 8)
    half, keys = block.attend(x)
    assert keys.shape == (2, 2, 4, 4)
    torch.testing.assert_close(block(x), block.feed(half), rtol=0, atol=0)


def test_weights_are_drawn_as_the_table_says():
    torch.manual_seed(0)
    module = torch.nn.ModuleList(
        [torch.nn.Linear(100, 1000), ConvLinear(100, 1000), torch.nn.LayerNorm(7)]
    )
    torch.nn.init.zeros_(module[2].weight)
    initialise(module)
    assert module[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not module[0].bias.any()
    assert module[1].weight.abs().max().item() == pytest.approx(0.1, rel=0.01)
    assert module[1].weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert module[1].bias.any()
    assert torch.equal(module[2].weight, torch.ones(7))


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_an_mlp_in_parts_is_the_mlp(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    block = blocks.EarlyBlock(blocks.Mlp(8, 24, sub_norm=True), 8, layer_scale=0.5)
    seen: list[int] = []
    block.mlp.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    x = torch.randn(2, tokens, 8)
    whole = block(x)  # with gradients: at once
    assert seen == [2]
    monkeypatch.setattr(blocks, "PART_BYTES", 10 * 8 * 4)
    with torch.no_grad():
        torch.testing.assert_close(block(x), whole)
    assert seen[1:] == [10] * (2 * tokens // 10) + [2 * tokens % 10]


def test_a_part_is_never_less_than_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PART_BYTES", 1)
    block = blocks.EarlyBlock(blocks.Mlp(8, 24), 8)
    x = torch.randn(3, 2, 8)
    with torch.no_grad():
        parts = block(x)
    torch.testing.assert_close(parts, block(x))
