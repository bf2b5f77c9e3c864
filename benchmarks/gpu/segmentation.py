"""Segmenters: training step and inference on crops, with drawn masks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Line, rates, training_step
from benchmarks.lib.interleave import Case
from itpn_ray.data.config import SegmentationAugmentConfig
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.tasks.segmentation.task import SegmentationTask

TITLE = "Segmentation: training step and inference of UPerNet on crops, bf16 autocast"
COLUMNS = {
    "what": "what",
    "variant": "variant",
    "batch": "batch",
    "images_per_s": "images/s",
    "tflops": "TFLOP/s",
    "mfu": "MFU",
    "memory_gb": "GB",
}
CLASSES = 150
SMALL_WIDTH = 16


def run(bench: Bench) -> None:
    """Training step and inference, plain and accelerated."""
    fast = {"migration": 0.3, "window": bench.scale.window, "gathering": True}
    for what in ("training step", "inference"):
        for variant, model in (("plain", {}), ("all together, r = 0.3", fast)):
            measure(bench, {"what": what, "variant": variant}, model)


def measure(bench: Bench, line: Line, model: dict[str, Any]) -> None:
    """One line."""
    count, side = bench.scale.crops
    found: dict[str, Any] = {}

    def call() -> Case:
        task = make_task(bench, model)
        network = task.build().to(bench.device)
        segmenter = network.segmenter
        found["work"] = multiply_adds(segmenter, side)
        ready = task.prepare(drawn_batch(bench), 0)
        if line["what"] == "inference":
            segment = torch.inference_mode()(partial(segmenter.eval(), ready["image"]))
            found["call"] = bench.autocast()(segment)
        else:
            network.train()

            def loss() -> Tensor:
                return network(ready)["loss"]

            found["call"] = training_step(bench, network, loss)
        return found["call"]

    for spent in bench.time({"it": (line, call)}).values():
        times = 3 if line["what"] == "training step" else 1
        told = rates(bench, count, spent, times * found["work"])
        bench.result.add({**line, **told, "memory_gb": bench.memory_gb(found["call"])})
    found.clear()
    bench.tidy()


def make_task(bench: Bench, model: dict[str, Any]) -> SegmentationTask:
    """A segmentation task as a run makes it."""
    setup = TaskSetup(
        config=Segmentation(width=SMALL_WIDTH if bench.scale.small_head else 0),
        model=ModelConfig(name=bench.scale.main, **model),
        classes=[str(number) for number in range(CLASSES)],
        augment=SegmentationAugmentConfig(),
    )
    return SegmentationTask(setup)


def drawn_batch(bench: Bench) -> Batch:
    """What a loader gives: crops, each with a mask of all classes."""
    count, side = bench.scale.crops
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator),
        "size": torch.tensor([[side, side]]).repeat(count, 1),
        "mask": torch.randint(CLASSES, (count, side, side), generator=generator).short(),
        "sample_id": torch.arange(count),
    }
    return {name: tensor.to(bench.device) for name, tensor in batch.items()}
