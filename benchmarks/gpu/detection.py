"""Detectors: training step and inference on views of one size, with drawn objects."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.acceleration import prefer_first
from benchmarks.gpu.bench import Bench, Line, rates, training_step
from benchmarks.lib.interleave import Case
from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.data.transforms.on_device import normalise_views
from itpn_ray.models.detection.base import MASK_SIDE, Detector
from itpn_ray.models.detection.rcnn.network import Rcnn
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.detection.task import DetectionTask

TITLE = "Detection: training step and inference, bf16 autocast"
COLUMNS = {
    "head": "head",
    "what": "what",
    "variant": "variant",
    "batch": "batch",
    "images_per_s": "images/s",
    "tflops": "TFLOP/s",
    "mfu": "MFU",
    "memory_gb": "GB",
}
HEADS = ("mask_rcnn", "dino", "cascade_mask_rcnn")
CLASSES, OBJECTS = 80, 8


def run(bench: Bench) -> None:
    """Training steps and inference of each head, plain; Mask R-CNN accelerated too."""
    window = bench.scale.window
    fast = {"migration": 0.3, "window": window, "gathering": True}
    chosen = [(head, "plain", {}) for head in HEADS]
    chosen.insert(1, (HEADS[0], "all together, r = 0.3", fast))
    for what in ("training step", "inference"):
        for head, variant, model in chosen:
            line: Line = {"head": head, "what": what, "variant": variant}
            measure(bench, line, partial(make_task, bench, head, model))


def make_task(bench: Bench, head: str, model: dict[str, Any]) -> DetectionTask:
    """A detection task as a run makes it."""
    small = bench.scale.small_head
    setup = TaskSetup(
        config=Detection(head=head, masks=head != "dino", small_head=small),
        model=ModelConfig(name=bench.scale.main, **model),
        classes=[str(number) for number in range(CLASSES)],
        augment=DetectionAugmentConfig(),
    )
    return DetectionTask(setup)


def measure(bench: Bench, line: Line, make: Callable[[], DetectionTask]) -> None:
    """One line."""
    work: list[int] = []

    def call() -> Case:
        task = make()
        network = task.build().to(bench.device)
        work.append(multiply_adds(network.detector, bench.scale.view))
        batch = drawn_batch(bench, masks=task.config.masks)
        if line["what"] == "inference":
            return inference(bench, network.detector, batch)
        network.train()

        def loss() -> Tensor:
            return network(task.prepare(batch, 0))["loss"]

        return training_step(bench, network, loss)

    seconds = bench.time({"it": (line, call)})
    for spent in seconds.values():
        times = 3 if line["what"] == "training step" else 1
        bench.result.add({**line, **rates(bench, bench.scale.views, spent, times * work[0])})
    bench.tidy()


def inference(bench: Bench, detector: Detector, batch: Batch) -> Case:
    """From normalised pixels to boxes, with masks where there are any."""
    if isinstance(detector, Rcnn):
        prefer_first(detector.roi.boxes[-1].logits)
    images, sizes = normalise_views(batch["image"], batch["size"]), batch["size"]
    return bench.autocast()(torch.inference_mode()(partial(detector.eval().detect, images, sizes)))


def drawn_batch(bench: Bench, *, masks: bool) -> Batch:
    """What a loader gives: views that fill their images, each with a few objects."""
    count, (height, width) = bench.scale.views, bench.scale.view
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    corners = torch.rand(count, OBJECTS, 4, generator=generator)
    first, extent = corners[..., :2] * 0.6, 0.1 + corners[..., 2:] * 0.3
    scale = torch.tensor([width, height, width, height])
    batch = {
        "image": pixels,
        "size": torch.tensor([[height, width]]).repeat(count, 1),
        "boxes": torch.cat([first, first + extent], dim=-1) * scale,
        "label": torch.randint(CLASSES, (count, OBJECTS), generator=generator),
        "sample_id": torch.arange(count),
    }
    if masks:
        batch["masks"] = torch.ones(count, OBJECTS, MASK_SIDE, MASK_SIDE, dtype=torch.uint8)
    return {name: tensor.to(bench.device) for name, tensor in batch.items()}
