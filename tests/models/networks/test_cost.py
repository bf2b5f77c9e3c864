from __future__ import annotations

import pytest
import torch

from itpn_ray.models import create_autoencoder, create_distiller, create_model, create_trunk
from itpn_ray.models.networks.cost import multiply_adds, parameters

# Millions of parameters with a 1000-way head and thousands of millions of multiply-adds, at 224.
FIGURES = {
    "tiny": (24.22, 5.34),
    "small": (39.90, 8.93),
    "base": (84.83, 19.05),
    "large": (312.02, 65.74),
    "itpn_base": (78.42, 17.82),  # paper Table 1: 79 and 17.8, with the relative position tables
    "itpn_large": (288.14, 61.12),  # paper Table 1: 288 and 61.2
}


@pytest.mark.parametrize(("name", "figures"), FIGURES.items())
def test_published_sizes_have_their_figures(name, figures):
    with torch.device("meta"):
        model = create_model(name)
    millions, billions = figures
    assert round(parameters(model) / 1e6, 2) == millions
    assert round(multiply_adds(model, 224) / 1e9, 2) == billions


def test_multiply_adds_of_a_trunk_by_hand():
    trunk = create_trunk("nano", image_size=48)
    cells, tokens, width = 16 * 9, 9, trunk.config.width
    early = cells * 48 * width // 4
    early += cells * 2 * 3 * (width // 4) ** 2 + cells // 4 * width * width // 2
    early += cells // 4 * 2 * 3 * (width // 2) ** 2 + tokens * 2 * width * width
    block = tokens * (4 + 9) * width**2 + 2 * tokens**2 * width
    assert multiply_adds(trunk, 48) == early + trunk.config.depths[2] * block


def test_a_trunk_that_sees_fewer_patches_costs_less():
    trunk = create_trunk("nano", image_size=64)
    whole, quarter = multiply_adds(trunk, 64), multiply_adds(trunk, 64, visible=4)
    assert quarter < whole / 4


def test_pre_training_networks_are_counted():
    autoencoder = create_autoencoder("nano", image_size=64)
    distiller = create_distiller("nano", teacher_dim=8, image_size=64)
    assert multiply_adds(autoencoder, 64) < multiply_adds(autoencoder, 64, visible=8)
    assert multiply_adds(distiller, 64) > multiply_adds(distiller.trunk, 64)
