"""The moving average of weights."""

import pytest
import torch
from torch import nn

from itpn_ray.tasks.averaging import Averaging, decay_at, first_fraction, update_average


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


def test_the_decay_is_warmed_up_and_a_function_of_the_step() -> None:
    assert [decay_at(0.9999, step) for step in (0, 1, 89)] == [0.1, 2 / 11, 90 / 99]
    assert decay_at(0.9999, 89_988) < 0.9999
    assert decay_at(0.9999, 89_990) == decay_at(0.9999, 10**7) == 0.9999
    assert decay_at(0.5, 0) == 0.1
    assert decay_at(0.5, 8) == 0.5
    assert decay_at(0.0, 3) == 0.0
    assert decay_at(1.0, 0) == 1.0  # never moves


@pytest.mark.parametrize("steps", [0, 1, 5, 40, 400])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999, 1.0])
def test_the_share_of_the_first_weights_is_that_of_the_updates(decay: float, steps: int) -> None:
    average, source = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()
    nn.init.constant_(average.weight, 1.0)
    nn.init.constant_(source.weight, 0.0)
    for step in range(steps):
        update_average(average, source, decay_at(decay, step))
    assert average.weight.item() == pytest.approx(
        first_fraction(decay, steps), rel=1e-9, abs=1e-300
    )


def test_a_short_run_forgets_its_first_weights() -> None:
    """With a constant decay 98 % of them would be left after 180 steps."""
    assert first_fraction(0.9999, 180) < 1e-12
    assert first_fraction(0.996, 180) < 1e-12
    assert first_fraction(0.9999, 125_100) < 1e-12


@pytest.mark.parametrize("mode", [True, False])
def test_the_average_always_evaluates(mode: bool) -> None:
    keeper = Averaging()
    keeper.train(mode)  # without an average too
    keeper.keep_average(nn.BatchNorm1d(2), 0.9)
    keeper.train(mode)
    assert keeper.training == mode
    assert not keeper.average.training
    assert not any(p.requires_grad for p in keeper.average.parameters())
