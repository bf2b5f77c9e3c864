import time

import pytest
import torch
from torch import nn

from itpn_ray.evaluation.speed import Speed, compare_speed, measure
from itpn_ray.models import create_model
from itpn_ray.models.networks.cost import multiply_adds


class Clock:
    """Stands for `time.perf_counter`: only the networks make it go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(nn.Module):
    """Takes a known time a batch, and five times that in its first two calls and its fifth."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.clock, self.seconds = clock, seconds
        self.calls = 0
        self.modes: set[bool] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.modes.add(self.training)
        self.clock.now += self.seconds * (5 if self.calls in (1, 2, 5) else 1)
        return images.mean((2, 3)) * self.scale


def test_speed_is_the_median_after_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    slow, fast = Timed(clock, 0.04), Timed(clock, 0.01)
    speeds = compare_speed({"slow": slow, 0.5: fast}, image_size=8, batch=4)
    assert speeds["slow"].images_per_s == pytest.approx(4 / 0.04)
    assert speeds["slow"].low == pytest.approx(4 / 0.2)
    assert speeds[0.5].images_per_s == pytest.approx(4 / 0.01)
    assert slow.calls == fast.calls == 9


def test_a_speed_tells_its_spread() -> None:
    speed = Speed.of(10, [1.0, 4.0, 2.0])
    assert speed == Speed(images_per_s=5.0, low=2.5, high=10.0, timings=3)
    assert speed.as_row() == {
        "images_per_s": 5.0,
        "images_per_s_low": 2.5,
        "images_per_s_high": 10.0,
        "timings": 3,
    }


def test_networks_are_measured_in_inference_and_left_as_they_were() -> None:
    model = Timed(Clock(), 0.0).train()
    compare_speed({"": model}, image_size=8, batch=2, repeats=1)
    assert model.modes == {False}
    assert model.training


def test_measure_gathers_the_figures() -> None:
    model = create_model("fast_itpn_nano", num_classes=10, image_size=64)
    cost = measure(model, image_size=64, batch=2)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.multiply_adds == multiply_adds(model, 64) > 1e6
    assert cost.speed.images_per_s > 0
    assert cost.peak_memory_gb is None
