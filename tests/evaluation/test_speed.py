import time

import pytest
import torch
from torch import nn

from itpn_ray.evaluation.speed import compare_speed, measure, multiply_adds


class Sleeper(nn.Module):
    """Takes a known time a batch."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.seconds = seconds
        self.calls = 0
        self.modes: set[bool] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.modes.add(self.training)
        time.sleep(self.seconds * (5 if self.calls in (1, 2, 5) else 1))
        return images.mean((2, 3)) * self.scale


def test_speed_is_the_median_after_warm_up() -> None:
    slow, fast = Sleeper(0.04), Sleeper(0.01)
    speeds = compare_speed({"slow": slow, 0.5: fast}, image_size=8, batch=4)
    assert speeds["slow"] == pytest.approx(4 / 0.04, rel=0.3)
    assert speeds[0.5] == pytest.approx(4 / 0.01, rel=0.5)
    assert slow.calls == fast.calls == 9


def test_networks_are_measured_in_inference_and_left_as_they_were() -> None:
    model = Sleeper(0.0).train()
    compare_speed({"": model}, image_size=8, batch=2, repeats=1)
    multiply_adds(model, image_size=8)
    assert model.modes == {False}
    assert model.training


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, stride=4)
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(images).flatten(2).mT[:, None]  # (B, 1, N, 32)
        mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(mixed.mean((1, 2)))


def test_multiply_adds_of_convolution_attention_and_linear() -> None:
    tokens = 16
    expected = tokens * 32 * 48 + 2 * tokens * tokens * 32 + 32 * 10
    assert multiply_adds(Attend(), image_size=16) == expected


def test_measure_gathers_the_figures() -> None:
    model = Attend()
    cost = measure(model, image_size=16, batch=2)
    assert cost.parameters == 32 * 48 + 32 + 320 + 10
    assert cost.multiply_adds == multiply_adds(model, image_size=16)
    assert cost.images_per_s > 0
    assert cost.peak_memory_gb is None
