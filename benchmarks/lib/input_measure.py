"""Measures one input pipeline in a process of its own, an epoch for each line that it reads.

    python -m benchmarks.lib.input_measure NAME DATA BATCH WORKERS SKIPPED MEASURED \\
        [RANK WORLD CACHE]

The pipeline stays up between the epochs, so that several can take turns of some seconds each.
Prints the figures of the start and then of each epoch, as JSON, a line each. CPU time is that of
this process and of all it started, Ray's servers included.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from torch import Tensor

from benchmarks.lib.input_pipelines import PIPELINES, Epochs, Setting


def start(name: str, setting: Setting) -> tuple[Epochs, dict[str, float]]:
    """Open a pipeline and go through its first epoch."""
    begin = time.perf_counter()
    epochs = PIPELINES[name].open(setting)
    batches: Iterator[Tensor] = iter(epochs(0))
    first = next(batches)
    figures = {"first_batch_s": time.perf_counter() - begin}
    if tuple(first.shape[1:]) != (3, 224, 224) or str(first.dtype) != "torch.uint8":
        raise SystemExit(f"{name} gives {tuple(first.shape)} {first.dtype}")
    images = len(first) + sum(map(len, batches))
    figures["first_epoch_images_per_s"] = images / (time.perf_counter() - begin)
    return epochs, figures


def measure(
    epochs: Epochs, number: int, batch: int, skipped: int, measured: int
) -> dict[str, float]:
    """Time the beginning of an epoch and a stretch in its middle.

    Args:
        epochs: of the pipeline.
        number: of the epoch, after the first.
        batch: images a batch.
        skipped: images before the stretch.
        measured: images of the stretch.
    """
    begin = time.perf_counter()
    batches = iter(epochs(number))
    next(batches)
    figures = {"next_epoch_s": time.perf_counter() - begin}
    _settle()
    _take(batches, skipped // batch)
    cpu, wall = _cpu_seconds(), time.perf_counter()
    images = _take(batches, measured // batch)
    figures["cpu_ms"] = (_cpu_seconds() - cpu) / images * 1000
    figures["images_per_s"] = images / (time.perf_counter() - wall)
    figures["memory_mb"] = _memory_mb()
    for _ in batches:  # workers that stay up hand over a whole epoch before the next
        pass
    return figures


def _settle(quiet: float = 0.1, patience: float = 60.0) -> None:
    """Wait until all is read ahead that may be, and what starts in the background has started.

    Ray's workers have a low priority: beside threads that decode they take half a minute to start,
    and would be counted as the price of an image.
    """
    end = time.monotonic() + patience
    used = _cpu_seconds()
    while time.monotonic() < end:
        time.sleep(1)
        before, used = used, _cpu_seconds()
        if used - before < quiet:
            return
    raise SystemExit(f"something still computes after {patience:g} s in which nothing was asked")


def _take(batches: Iterator[Tensor], count: int) -> int:
    images = 0
    for _ in range(count):
        images += len(next(batches))
    return images


def _cpu_seconds() -> float:
    """User and system time of this process and its descendants, those that ended included."""
    total = 0.0
    for process in _family():
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _memory_mb() -> float:
    """Memory of this process and its descendants; shared pages are split between their users.

    Pages of mapped shards do not count: the system takes them back when it needs them.
    """
    total = 0
    for process in _family():
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Pss_Anon", "Pss_Shmem"):
                total += int(rest.split()[0])
    return total / 1024


def _family() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def main() -> None:
    """Start, measure as often as asked, and leave at once.

    Some pipelines hang when they are taken down; whoever started this process ends the rest.
    """
    name, data, *numbers = sys.argv[1:7]
    batch, workers, skipped, measured = map(int, numbers)
    rank, world, cache = sys.argv[7:] or ("0", "1", "")
    setting = Setting(
        data=data, batch=batch, workers=workers, rank=int(rank), world=int(world), cache=cache
    )
    epochs, figures = start(name, setting)
    tell(figures)
    for number, _ in enumerate(sys.stdin, start=1):
        tell(measure(epochs, number, batch, skipped, measured))
    os._exit(0)


def tell(figures: dict[str, float]) -> None:
    """Print figures, and what this process has started so far."""
    started = [process.pid for process in _family()[1:]]
    print(json.dumps({"figures": figures, "started": started}), flush=True)


if __name__ == "__main__":
    main()
