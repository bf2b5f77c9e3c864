"""The moving average of weights."""

import torch
from torch import nn

from itpn_ray.tasks.averaging import update_average


def test_average_moves_by_the_momentum() -> None:
    average, source = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.constant_(average.weight, 1.0)
    nn.init.constant_(source.weight, 3.0)
    source.running_mean.fill_(2.0)
    source.num_batches_tracked.fill_(7)
    update_average(average, source, 0.75)
    assert torch.equal(average.weight, torch.full((3,), 1.5))
    assert torch.equal(average.running_mean, torch.full((3,), 0.5))
    assert average.num_batches_tracked == 7


def test_source_is_left_alone_and_average_needs_no_gradient() -> None:
    average, source = nn.Linear(2, 2), nn.Linear(2, 2)
    before = source.weight.detach().clone()
    update_average(average, source, 0.0)
    assert torch.equal(source.weight, before)
    assert torch.equal(average.weight, before)
    assert average.weight.grad_fn is None
