"""The effective rank of features tells a collapse."""

import math

import pytest
import torch

from itpn_ray.evaluation.feature_map import project
from itpn_ray.evaluation.rank import gram, rankme


def test_equal_directions_count_as_many_and_one_as_one() -> None:
    assert rankme(gram(torch.eye(8))) == pytest.approx(8, rel=1e-4)
    assert rankme(gram(torch.ones(50, 8))) == pytest.approx(1, rel=1e-3)
    assert rankme(gram(torch.zeros(3, 8))) == 0


def test_it_is_the_entropy_of_the_singular_values() -> None:
    values = torch.tensor([3.0, 2.0, 1.0])
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    fractions = [0.5, 1 / 3, 1 / 6]
    expected = math.exp(-sum(p * math.log(p) for p in fractions))
    assert rankme(gram(torch.diag(values) @ rotation)) == pytest.approx(expected, rel=1e-5)


def test_parts_add_up_as_workers_shares_do() -> None:
    features = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    parts = gram(features[:7]) + gram(features[7:])
    assert rankme(parts) == pytest.approx(rankme(gram(features)), rel=1e-9)


def test_the_map_shows_the_directions_of_most_variance() -> None:
    draws = torch.randn(200, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    features = draws * torch.tensor([0.1, 5.0, 0.1, 2.0]) + 7
    places, shares = project(features)
    for axis, column in ((0, 1), (1, 3)):
        pair = torch.stack([places[:, axis], features[:, column]])
        assert abs(torch.corrcoef(pair)[0, 1]) > 0.99
        assert places[places[:, axis].abs().argmax(), axis] > 0
    assert shares[0] > shares[1] > 0.05
    assert sum(shares) <= 1
