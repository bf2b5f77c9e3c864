"""Runs of the one training loop on the device: what must hold of them bit by bit, and what not.

The runs are as small as runs can be: drawn images, the nano trunk, a few steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.pretraining import write_teacher
from itpn_ray.data.config import DetectionAugmentConfig, LoaderConfig, SegmentationAugmentConfig
from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.synthetic.layouts import generate
from itpn_ray.data.transforms.on_device import prefetch
from itpn_ray.errors import RunError
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig
from itpn_ray.runs.journal import EVENTS, METRICS, FileJournal, read_lines
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.tracking.config import TrackingConfig
from itpn_ray.training.checkpoint.state_files import state_digest
from itpn_ray.training.claim import run_folder
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.process import open_checkpoints, work

Errors = dict[str, tuple[float, float]]
"""What was compared -> its error, and how much is allowed."""
Check = Callable[[], Errors]
IMAGES, BATCH = 16, 8
LOSS = 0.05
"""Allowed relative difference of losses between a GPU in bf16 and a CPU in float32."""
VIEWS = DetectionAugmentConfig(
    short_sides=(64, 80), long_side=96, crop_short_sides=(64, 72), crop_size=(48, 64)
)


def checks(bench: Bench) -> Iterator[tuple[str, str, Check]]:
    """Check, what it is of, and the check itself."""
    tasks = experiments(bench)
    yield "copies", "pinned batches on a stream of their own", partial(copies, bench)
    for name, config in tasks.items():
        yield "losses as on a CPU", name, partial(as_on_cpu, bench, config)
        yield "two runs equal, deterministic", name, partial(repeats, bench, config)
    pixels = tasks["pixel pre-training"]
    yield "resume on the CPU and back", "pixel pre-training", partial(resumes, bench, pixels)
    yield (
        "a NaN step is skipped",
        "pixel pre-training",
        partial(skips, bench, pixels),
    )
    yield "out of memory says what to lower", "pixel pre-training", partial(lacks, bench, pixels)


def experiments(bench: Bench) -> dict[str, ExperimentConfig]:
    """A run of each task, on data drawn for it."""
    base = ExperimentConfig(
        out=str(bench.scratch / "runs"),
        data=draw(bench.scratch / "images", "imagenet"),
        workers="0",
        eval_every=-1,
        log_every=1,
        model=ModelConfig(name="nano", image_size=32),
        task=PixelPretraining(pyramid_width=16, decoder_width=32, decoder_depth=1),
        optim=OptimConfig(global_batch=BATCH, epochs=1, warmup_epochs=0, lr=1e-4),
        loader=LoaderConfig(transport="threads", threads=2, prefetch=2 * BATCH),
        checkpoint=CheckpointConfig(every_steps=1000),
        tracking=TrackingConfig(kind="none"),
    )
    detection = dataclasses.replace(
        base,
        data=draw(bench.scratch / "scenes", "coco"),
        model=ModelConfig(name="nano", image_size=64),
        # Without masks, whose polygons are filled by a package that the suite does without.
        task=Detection(small_head=True, masks=False, short_side=64, long_side=96),
        augment=VIEWS,
        optim=OptimConfig(global_batch=4, epochs=1, warmup_epochs=0, lr=1e-4),
    )
    teacher = bench.scratch / "clip.safetensors"
    write_teacher("clip_nano", base.model.image_size, teacher)
    return {
        "pixel pre-training": base,
        "CLIP pre-training": dataclasses.replace(
            base,
            task=ClipPretraining(
                teacher=str(teacher), teacher_model="clip_nano", pyramid_width=16, smallest_block=1
            ),
        ),
        "classification": dataclasses.replace(base, task=Classification()),
        "detection": detection,
        "segmentation": dataclasses.replace(
            base,
            data=draw(bench.scratch / "masks", "ade"),
            model=ModelConfig(name="nano", image_size=64),
            task=Segmentation(width=16, short_side=64, long_side=128, window=64, stride=43),
            augment=SegmentationAugmentConfig(short_side=64, long_side=128, crop_size=64),
            optim=OptimConfig(global_batch=4, epochs=1, warmup_epochs=0, lr=1e-4),
        ),
    }


def draw(folder: Path, layout: str) -> str:
    """Draw and prepare images; the prepared folder."""
    raw, data = str(folder / "raw"), str(folder / "data")
    generate(SynthesizeConfig(out=raw, layout=layout, train=IMAGES, val=10, side=64, num_workers=0))
    prepare(PrepareConfig(source=raw, out=data, num_workers=0))
    return data


def train(config: ExperimentConfig, name: str, device: torch.device, **changes: Any) -> Path:
    """Train, or go on with a run of that name; its folder."""
    config = dataclasses.replace(config, run=name, **changes)
    worker = TrainContext.alone(gpu=device.type == "cuda", threads=torch.get_num_threads())
    folder = run_folder(config)
    work(config, worker, FileJournal(folder), lambda metrics: None)
    return folder


def losses(folder: Path) -> Tensor:
    """The training loss of every step of a run."""
    return torch.tensor(
        [line["loss"] for line in read_lines(folder / METRICS) if line["split"] == "train"]
    )


def saved(config: ExperimentConfig, name: str) -> str:
    """SHA-256 of network and optimiser in a run's newest checkpoint."""
    checkpoint = open_checkpoints(dataclasses.replace(config, run=name)).latest_good()
    assert checkpoint is not None
    return state_digest(checkpoint.load("network", "optimizer"))


def copies(bench: Bench) -> Errors:
    """Batches copied ahead, while the device computes with those before, are the host's own."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (12, 64, 3, 96, 96), dtype=torch.uint8, generator=generator)
    host = [{"image": image.pin_memory() if bench.on_card else image} for image in images]
    wrong = 0
    for copied, kept in zip(prefetch(host, bench.device), images, strict=True):
        copied["image"].float().mul_(2).sum()  # something that runs beside the next copy
        wrong += int((copied["image"].cpu() != kept).sum())
    return {"bits": (wrong, 0)}


def as_on_cpu(bench: Bench, config: ExperimentConfig) -> Errors:
    """The losses of a run beside those of the same run on a CPU, in float32."""
    kind = config.task.name
    found = losses(train(config, f"{kind}-device", bench.device))
    wanted = losses(train(config, f"{kind}-cpu", torch.device("cpu")))
    return {"loss": (float(((found - wanted).abs() / wanted).max()), LOSS)}


def repeats(bench: Bench, config: ExperimentConfig) -> Errors:
    """Two runs with deterministic algorithms end with the same bits."""
    names = [f"{config.task.name}-deterministic-{number}" for number in (1, 2)]
    for name in names:
        train(config, name, bench.device, deterministic=True)
    first, second = (saved(config, name) for name in names)
    return {"bits": (float(first != second), 0)}


def resumes(bench: Bench, config: ExperimentConfig) -> Errors:
    """A run goes on on the CPU, then on the device; untouched state comes back bit by bit."""
    wrong = 0
    for epochs, device in ((1, bench.device), (2, torch.device("cpu")), (3, bench.device)):
        optim = dataclasses.replace(config.optim, epochs=epochs)
        before = saved(config, "moved") if epochs > 1 else ""
        with reread(config, device) as digests:
            folder = train(config, "moved", device, optim=optim)
        wrong += sum(digest != before for digest in digests)
    steps = [line["step"] for line in read_lines(folder / METRICS) if line["split"] == "train"]
    resumed = [line for line in read_lines(folder / EVENTS) if line["event"] == "resume"]
    wrong += steps != list(range(1, 1 + 3 * IMAGES // BATCH)) or len(resumed) != 2
    return {"bits": (float(wrong), 0)}


@contextmanager
def reread(config: ExperimentConfig, device: torch.device) -> Iterator[list[str]]:
    """Digests of what the loop holds on its device once it has put a checkpoint back."""
    from itpn_ray.training import loop

    restore, found = loop.restore, []

    def watched(store: Any, network: Any, optimizer: Any, *rest: Any) -> int:
        step = restore(store, network, optimizer, *rest)
        if step:
            assert next(network.parameters()).device.type == device.type
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            found.append(state_digest(state))
        return step

    loop.restore = watched
    try:
        yield found
    finally:
        loop.restore = restore


@contextmanager
def each_batch(change: Callable[[int, Batch], None]) -> Iterator[None]:
    """Change prepared batches of pixel pre-training meanwhile; they are counted from 0."""
    usual, count = PixelPretrainingTask.prepare, 0

    def changed(task: PixelPretrainingTask, batch: Batch, epoch: int) -> Batch:
        nonlocal count
        ready = usual(task, batch, epoch)
        change(count, ready)
        count += 1
        return ready

    PixelPretrainingTask.prepare = changed  # type: ignore[method-assign]
    try:
        yield
    finally:
        PixelPretrainingTask.prepare = usual  # type: ignore[method-assign]


def skips(bench: Bench, config: ExperimentConfig) -> Errors:
    """A batch with a NaN is told, and leaves weights that are finite."""

    def poison(number: int, batch: Batch) -> None:
        if number == 0:
            batch["image"][-1] = float("nan")

    with each_batch(poison):
        folder = train(config, "skips", bench.device)
    skipped = [line["step"] for line in read_lines(folder / EVENTS) if line["event"] == "skip"]
    return {"bits": (float(skipped != [0] or not losses(folder)[1:].isfinite().all()), 0)}


def lacks(bench: Bench, config: ExperimentConfig) -> Errors:
    """More memory than there is ends the run with the option to lower."""

    def ask(number: int, batch: Batch) -> None:
        if bench.on_card:
            batch["image"].new_empty(2**50)
        raise torch.OutOfMemoryError("as a card would say it")

    try:
        with each_batch(ask):
            train(config, "lacks", bench.device)
    except RunError as error:
        return {"bits": (float("--optim.micro-batch" not in str(error)), 0)}
    return {"bits": (1.0, 0)}
