"""Buffers put back after a step that is not applied."""

from __future__ import annotations

import torch
from torch import nn

from itpn_ray.training.buffers import Buffers


def test_statistics_and_counters_are_put_back() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    network(torch.randn(4, 2))
    buffers = Buffers(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    buffers.keep()
    network(torch.full((4, 2), float("nan")))
    assert not buffers.finite()
    buffers.restore()
    assert buffers.finite()
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_a_variance_that_overflows_is_found_where_the_output_is_finite() -> None:
    network = nn.BatchNorm1d(1)
    buffers = Buffers(network)
    assert torch.isfinite(network(torch.tensor([[-1e25], [1e25]]))).all()
    assert not buffers.finite()


def test_a_network_without_buffers() -> None:
    buffers = Buffers(nn.Linear(2, 2))
    buffers.keep()
    buffers.restore()
    assert buffers.finite()
