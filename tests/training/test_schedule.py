"""Learning rate by step."""

import math

import pytest

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import OptimConfig
from itpn_ray.training.schedule import learning_rate, total_steps


def config(**changes: float) -> OptimConfig:
    return OptimConfig(
        **{"global_batch": 8, "epochs": 10, "warmup_epochs": 2, "lr": 1.0, **changes}
    )


def test_warmup_is_linear_and_never_zero() -> None:
    rates = [learning_rate(config(), step, 5) for step in range(10)]
    assert rates == pytest.approx([(step + 1) / 10 for step in range(10)])


def test_cosine_ends_at_the_lowest_rate() -> None:
    assert learning_rate(config(min_lr=0.1), 50, 5) == pytest.approx(0.1)
    middle = learning_rate(config(min_lr=0.1), 30, 5)
    assert middle == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_no_warmup() -> None:
    assert learning_rate(config(warmup_epochs=0), 0, 5) == pytest.approx(1.0)


def test_drops_take_the_place_of_the_cosine() -> None:
    dropping = config(warmup_epochs=0, lr_milestones=(9 / 12, 11 / 12), epochs=12)
    rates = [learning_rate(dropping, step, 5) for step in range(60)]
    assert rates == pytest.approx([1.0] * 45 + [0.1] * 10 + [0.01] * 5)


def test_warmup_in_steps() -> None:
    for more in ({}, {"lr_milestones": (0.9,)}):
        rates = [
            learning_rate(config(warmup_epochs=0, warmup_steps=4, **more), s, 5) for s in (0, 3)
        ]
        assert rates == pytest.approx([0.25, 1.0])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"warmup_steps": 5}, "optim.warmup_steps"),
        ({"lr_milestones": (0.5,), "min_lr": 0.1}, "optim.min_lr"),
        ({"lr_milestones": (1.0,)}, "optim.lr_milestones"),
    ],
)
def test_contradictions_are_refused(changes: dict, field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(**changes)
    assert refused.value.subject == field


@pytest.mark.parametrize(("epochs", "steps"), [(10, 50), (0.5, 2), (0.01, 1)])
def test_total_steps(epochs: float, steps: int) -> None:
    assert total_steps(config(epochs=epochs, warmup_epochs=0), 5) == steps
