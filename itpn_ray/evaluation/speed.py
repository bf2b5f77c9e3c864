"""What a network costs: images a second, parameters, multiply-adds, peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.cost import multiply_adds, parameters

Key = TypeVar("Key", bound=Hashable)

WARM_UP = 2
REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Images a second, as timed several times.

    Attributes:
        images_per_s: median.
        low: the slowest timing's.
        high: the fastest timing's.
        timings: how many there were.
    """

    images_per_s: float
    low: float
    high: float
    timings: int

    @staticmethod
    def of(images: int, seconds: Sequence[float]) -> Speed:
        """The speed of so many images in each of these times."""
        return Speed(
            images_per_s=images / statistics.median(seconds),
            low=images / max(seconds),
            high=images / min(seconds),
            timings=len(seconds),
        )

    def as_row(self) -> dict[str, float]:
        """The speed as entries of a table's row."""
        speeds = {"": self.images_per_s, "_low": self.low, "_high": self.high}
        rounded = {f"images_per_s{end}": round(speed, 3) for end, speed in speeds.items()}
        return {**rounded, "timings": self.timings}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one network costs.

    Attributes:
        speed: in inference.
        parameters: trainable and frozen, in total.
        multiply_adds: an image, forward.
        peak_memory_gb: most memory of the GPU during a forward, 10^9 bytes; None on a CPU.
    """

    speed: Speed
    parameters: int
    multiply_adds: int
    peak_memory_gb: float | None


def measure(model: Network, *, image_size: int, batch: int) -> Cost:
    """Measure one network in inference, on its own device and under the autocast in force.

    Args:
        model: maps float (B, 3, S, S) to anything.
        image_size: S, pixels.
        batch: B.
    """
    images = _images(model, image_size, batch)
    on_gpu = images.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(images.device)
    speed = compare_speed({"": model}, image_size=image_size, batch=batch)[""]
    peak = torch.cuda.max_memory_allocated(images.device) / 1e9 if on_gpu else None
    return Cost(
        speed=speed,
        parameters=parameters(model),
        multiply_adds=multiply_adds(model, image_size),
        peak_memory_gb=peak,
    )


@torch.inference_mode()
def compare_speed(
    models: Mapping[Key, nn.Module], *, image_size: int, batch: int, repeats: int = REPEATS
) -> dict[Key, Speed]:
    """Images a second of several networks in inference, measured in turn.

    Args:
        models: networks by any key, each on its own device; they map float (B, 3, S, S).
        image_size: S, pixels.
        batch: B.
        repeats: how often each is timed, see `seconds_in_turn`.

    Returns:
        Speed by key.
    """
    # Left as they were found.
    modes = {key: model.training for key, model in models.items()}
    calls = {}
    for key, model in models.items():
        images = _images(model, image_size, batch)
        calls[key] = partial(finish, partial(model.eval(), images), images.device)
    seconds = seconds_in_turn(calls, repeats=repeats)
    for key, model in models.items():
        model.train(modes[key])
    return {key: Speed.of(batch, spent) for key, spent in seconds.items()}


def seconds_in_turn(
    calls: Mapping[Key, Callable[[], object]], *, repeats: int = REPEATS
) -> dict[Key, list[float]]:
    """Seconds that each of several calls takes, one value a repeat.

    Each repeat times every call once, so that whatever else the machine does falls on all of them
    alike; two untimed rounds come first.

    Args:
        calls: by any key; each returns when the device's work is done too, see `finish`.
        repeats: how often each is timed.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for turn in range(WARM_UP + repeats):
        for key, call in calls.items():
            begin = time.perf_counter()
            call()
            # First calls choose kernels and take memory; that is not the network's speed.
            if turn >= WARM_UP:
                seconds[key].append(time.perf_counter() - begin)
    return seconds


def finish(call: Callable[[], object], device: torch.device) -> None:
    """Call, and wait for the device's work."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _images(model: nn.Module, image_size: int, batch: int) -> Tensor:
    device = next(model.parameters()).device
    return torch.rand(batch, 3, image_size, image_size, device=device)
