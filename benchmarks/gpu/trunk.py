"""Forward and training step of classifiers: images and operations a second, beside timm's.

Eager at every size; compiled at the bars' size, ours and timm's in turn in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.bench import Bench, Line, rates, training_step
from benchmarks.lib.interleave import Case
from itpn_ray.models import create_model
from itpn_ray.models.networks.cost import counting, multiply_adds

TITLE = "Trunk: forward and training step, bf16"
COLUMNS = {
    "what": "what",
    "network": "network",
    "pixels": "px",
    "mode": "mode",
    "batch": "batch",
    "images_per_s": "images/s",
    "tflops": "TFLOP/s",
    "mfu": "MFU",
    "ratio": "operations/s over the first of timm's",
    "memory_gb": "GB",
}
CLASSES = 1000
WORK = {"forward": 1, "training step": 3}
"""Multiply-adds as multiples of a forward pass."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to be timed: how it is made, and multiply-adds an image."""

    name: str
    make: Callable[[], nn.Module]
    multiply_adds: int


def run(bench: Bench) -> None:
    """All networks at the bars' size, then the larger sizes of ours."""
    scale, size = bench.scale, bench.scale.sizes[0]
    main, *others = (ours(name, size) for name in scale.networks)
    beside = [main, *(theirs(name, changes, size) for name, changes in scale.rivals.items())]
    for mode in ("compiled", "eager"):
        for what in WORK:
            measure(bench, what, mode, beside, size)
    for what in WORK:
        measure(bench, what, "eager", others, size)
    for larger in scale.sizes[1:]:
        subjects = [ours(name, larger) for name in scale.networks]
        for what in WORK:
            measure(bench, what, "eager", subjects, larger)


def ours(name: str, size: int) -> Subject:
    """One of our classifiers."""
    make = partial(create_model, name, num_classes=CLASSES, image_size=size)
    with torch.device("meta"):
        return Subject(name=name, make=make, multiply_adds=multiply_adds(make(), size))


def theirs(name: str, changes: dict[str, object], size: int) -> Subject:
    """One of timm's."""
    make = partial(timm.create_model, name, num_classes=CLASSES, **changes)
    with counting() as counted:
        make().eval()(torch.empty(1, 3, size, size))
    return Subject(name=name, make=make, multiply_adds=counted())


def measure(bench: Bench, what: str, mode: str, subjects: list[Subject], size: int) -> None:
    """Time the subjects in turn and write a line each."""
    batch = bench.batch(size, size) // (2 if what == "training step" else 1) or 1
    make_call = forward if what == "forward" else step
    calls: dict[str, Case] = {}

    def make(subject: Subject) -> Case:
        calls[subject.name] = make_call(bench, subject, mode, batch, size)
        return calls[subject.name]

    lines: dict[str, Line] = {
        subject.name: {"what": what, "network": subject.name, "pixels": size, "mode": mode}
        for subject in subjects
    }
    seconds = bench.time({each.name: (lines[each.name], partial(make, each)) for each in subjects})
    first = next(iter(bench.scale.rivals))
    work = {each.name: WORK[what] * each.multiply_adds for each in subjects}
    for name, spent in seconds.items():
        line = lines[name] | rates(bench, batch, spent, work[name])
        if first in seconds:
            line["ratio"] = work[name] / spent / (work[first] / seconds[first])
        bench.result.add({**line, "memory_gb": bench.memory_gb(calls[name])})
    calls.clear()
    bench.tidy()


def forward(bench: Bench, subject: Subject, mode: str, batch: int, size: int) -> Case:
    """Inference with bf16 weights."""
    images = torch.randn(batch, 3, size, size, device=bench.device, dtype=torch.bfloat16)
    network = subject.make().to(bench.device, torch.bfloat16).eval()
    call = bench.compile(network) if mode == "compiled" else network
    return torch.inference_mode()(partial(call, images))


def step(bench: Bench, subject: Subject, mode: str, batch: int, size: int) -> Case:
    """A training step on float32 weights under autocast."""
    images = torch.randn(batch, 3, size, size, device=bench.device)
    labels = torch.randint(CLASSES, (batch,), device=bench.device)
    network = subject.make().to(bench.device).train()
    call = bench.compile(network) if mode == "compiled" else network

    def loss() -> Tensor:
        return F.cross_entropy(call(images).float(), labels)

    return training_step(bench, network, loss)
