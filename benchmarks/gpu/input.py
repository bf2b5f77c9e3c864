"""The whole loop against the step alone: is the card ever waiting for images?

Drawn JPEG files are prepared and decoded by the project's loader on the CPU's cores; the step is
pixel pre-training of the bars' trunk. Beside it the decoders of the card, where they can be had.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.pretraining import Step
from itpn_ray.data.config import AugmentConfig, LoaderConfig
from itpn_ray.data.loading.crop_loader import TrainLoader
from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.synthetic.layouts import generate
from itpn_ray.data.transforms.on_device import Batch, prefetch
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining

TITLE = "Input: decoding, and the loop against the step alone"
COLUMNS = {
    "what": "what",
    "images": "images",
    "images_per_s": "images/s",
    "loop_ratio": "loop over step alone",
    "waiting": "share of time waiting for a batch",
}
WARM_UP = 2
"""Steps before the clock starts: they compile, and fill the queue."""
AT_ONCE = 128
"""JPEG files that a card's decoder is given together."""


def run(bench: Bench) -> None:
    """The loader alone, the loop, then the card's decoders on the same files."""
    count, side = bench.scale.images
    raw, data = bench.scratch / "raw", bench.scratch / "data"
    workers = None if bench.on_card else 0
    drawn = SynthesizeConfig(
        out=str(raw), train=count, val=len(os.sched_getaffinity(0)), side=side, num_workers=workers
    )
    generate(drawn)
    prepare(PrepareConfig(source=str(raw), out=str(data), num_workers=0))
    bench.attempt({"what": "loader alone"}, partial(alone, bench, data))
    bench.attempt({"what": "training loop"}, partial(loop, bench, data))
    files = sorted((raw / "train").rglob("*.jpg"))
    for name, decode in decoders(bench).items():
        bench.attempt({"what": name}, partial(decoded, bench, files, decode))


def new_loader(bench: Bench, data: Path) -> TrainLoader:
    """The loader as pre-training has it, a thread for every core."""
    batch = bench.scale.batch
    return TrainLoader(
        open_dataset(str(data), "train"),
        LoaderConfig(transport="threads", threads=len(os.sched_getaffinity(0)), prefetch=4 * batch),
        image_size=bench.scale.sizes[0],
        augment=AugmentConfig(min_scale=0.2),
        seed=0,
        global_batch=batch,
        pin=bench.on_card,
    )


def alone(bench: Bench, data: Path) -> dict[str, object]:
    """Images a second that the cores decode and crop."""
    loader = new_loader(bench, data)
    batches = iter(loader.epoch(0))
    next(batches)
    begin = time.perf_counter()
    images = sum(len(batch["image"]) for batch in batches)
    spent = time.perf_counter() - begin
    loader.close()
    return {"images": images, "images_per_s": images / spent}


def loop(bench: Bench, data: Path) -> dict[str, object]:
    """Images a second of training steps that read, against steps on a batch that stays."""
    step = Step(
        bench, bench.scale.main, PixelPretraining(**bench.scale.decoder), stored_tokens=False
    )
    loader = new_loader(bench, data)
    steps = loader.steps_per_epoch
    batches = prefetch(loader.batches(0, WARM_UP + 2 * steps), bench.device)
    _train(bench, step, batches, WARM_UP)
    read, waited = _train(bench, step, batches, steps)
    resident, _ = _train(bench, step, itertools.repeat(step.batch), steps)
    batches.close()
    loader.close()
    images = steps * bench.scale.batch
    return {
        "images": images,
        "images_per_s": images / read,
        "loop_ratio": read / resident,
        "waiting": waited / read,
    }


def _train(bench: Bench, step: Step, batches: Iterator[Batch], steps: int) -> tuple[float, float]:
    """Seconds of so many steps, and those of them in which the next batch was waited for.

    The host waits for each step's end, as the loop does when it agrees on the gradients.
    """
    waited, begin = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        step.batch = next(batches)
        waited += time.perf_counter() - asked
        step.whole()
        if bench.on_card:
            torch.cuda.synchronize(bench.device)
    return time.perf_counter() - begin, waited


Decode = Callable[[list[bytes]], object]


def decoders(bench: Bench) -> dict[str, Decode]:
    """What decodes JPEG bytes: torchvision on the device, and nvImageCodec if it is installed."""
    found: dict[str, Decode] = {"torchvision": partial(by_torchvision, bench.device)}
    try:
        from nvidia import nvimgcodec
    except ImportError:
        return found
    return found | ({"nvImageCodec": nvimgcodec.Decoder().decode} if bench.on_card else {})


def by_torchvision(device: torch.device, images: list[bytes]) -> list[Tensor]:
    """By nvJPEG on a card, libjpeg on a CPU."""
    coded = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in images]
    return decode_jpeg(coded, mode=ImageReadMode.RGB, device=device)


def decoded(bench: Bench, files: list[Path], decode: Decode) -> dict[str, object]:
    """Images a second that a decoder makes of whole files, one thread asking."""
    images = [path.read_bytes() for path in files]
    parts = [images[i : i + AT_ONCE] for i in range(0, len(images), AT_ONCE)]
    decode(parts[0])
    begin = time.perf_counter()
    for part in parts:
        decode(part)
    if bench.on_card:
        torch.cuda.synchronize(bench.device)
    return {"images": len(images), "images_per_s": len(images) / (time.perf_counter() - begin)}
