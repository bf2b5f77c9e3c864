"""Convolutions among the patches, for the comparison of Table 9."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from itpn_ray.errors import ConfigError
from itpn_ray.models import create_autoencoder, create_dense, load_model, load_weights, save_model
from itpn_ray.models.layers.blocks import from_map, to_map
from itpn_ray.models.layers.convolution import ConvBlock, Patches, gathered, spread
from itpn_ray.models.networks.cost import parameters
from itpn_ray.models.weights.programs import program_of
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from tests.models.nets import make_images, stir


def test_a_map_and_its_tokens_are_each_other() -> None:
    tokens = torch.randn(2, 6, 4, 4, 5)
    assert torch.equal(from_map(to_map(tokens, (2, 3)), (2, 3)), tokens)


def test_visible_tokens_lie_among_zeros() -> None:
    patches = Patches((2, 3), torch.tensor([[1, 5], [0, 2]]))
    tokens = torch.randn(2, 2, 4, 4, 5)
    whole = spread(tokens, patches)
    assert whole.shape == (2, 6, 4, 4, 5)
    assert torch.equal(gathered(whole, patches), tokens)
    assert whole[0, [0, 2, 3, 4]].abs().sum() == 0


def test_a_block_is_a_convolution_of_the_whole_map() -> None:
    """What torch computes on the map, patch borders crossed."""
    torch.manual_seed(0)
    block = ConvBlock(8)
    tokens = torch.randn(1, 6, 2, 2, 8)
    found = block(tokens, None, Patches((2, 3)))
    image = to_map(block.norm2(tokens), (2, 3))
    mixed = F.conv2d(image, block.conv.weight, block.conv.bias, padding=1)
    expected = tokens + block.fc2(F.gelu(from_map(mixed, (2, 3))))
    torch.testing.assert_close(found, expected)


def test_all_patches_visible_is_the_whole_image() -> None:
    network = create_autoencoder("nano", image_size=64, convolution=True)
    stir(network)
    images = make_images(2, 64)
    order = torch.arange(16).expand(2, -1)
    for one, two in zip(
        network.trunk.stages(images), network.trunk.stages(images, order), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_masked_patches_do_not_reach_the_visible_ones() -> None:
    network = create_autoencoder("nano", image_size=64, convolution=True).eval()
    stir(network)
    visible = torch.tensor([[0, 1, 4, 9]])
    images = make_images(1, 64)
    other = images.clone()
    other[:, :, 48:, 48:] += 1.0  # patch 15
    assert torch.equal(network.encode(images, visible), network.encode(other, visible))


def test_a_trunk_and_its_pyramid_have_convolutions(tmp_path: Path) -> None:
    network = create_autoencoder("nano", image_size=64, convolution=True)
    assert network.pyramid is not None
    assert isinstance(network.pyramid.out3, ConvBlock)
    assert isinstance(network.trunk.stage1[0], ConvBlock)
    save_model(network, tmp_path / "model.safetensors")
    dense = create_dense("nano", image_size=64, convolution=True, pyramid_depth=2)
    report = load_weights(dense, tmp_path / "model.safetensors")
    assert report.fraction == 1.0
    assert load_model(tmp_path / "model.safetensors").config.trunk.convolution


@pytest.mark.parametrize(
    ("changes", "million"),
    [({}, 77.9), ({"convolution": True}, 78.9)],
    ids=["C-MLP", "convolution"],
)
def test_both_variants_of_itpn_base_are_of_one_size(
    changes: dict[str, bool], million: float
) -> None:
    with torch.device("meta"):
        network = create_autoencoder("itpn_base", **changes)
    assert parameters(network.trunk) / 1e6 == pytest.approx(million, abs=0.1)


def test_a_plain_trunk_has_the_size_of_vit() -> None:
    with torch.device("meta"):
        network = create_autoencoder("plain_base", integral=False)
    assert parameters(network.trunk) / 1e6 == pytest.approx(86, abs=1)
    assert len(network.trunk.stage1) == len(network.trunk.stage2) == 0


def test_without_integral_pretraining_the_decoder_sees_the_last_stage_alone() -> None:
    network = create_autoencoder("nano", image_size=64, integral=False)
    assert network.pyramid is None
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[:, :4] = False
    output = network(make_images(2, 64), mask)
    output["loss"].backward()
    assert output["pyramid"] == {}
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(ConfigError, match="without its pyramid"):
        program_of(network)


def test_a_feature_loss_needs_the_pyramid() -> None:
    with pytest.raises(ConfigError, match="integral"):
        PixelPretraining(integral=False)
