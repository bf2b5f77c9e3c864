"""Measures one input pipeline in a process of its own; prints its figures as one JSON line.

    python -m benchmarks.lib.input_measure NAME DATA BATCH WORKERS SKIPPED MEASURED \\
        [RANK WORLD CACHE]

CPU time is that of this process and of all it started, Ray's servers included.
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

from benchmarks.lib.input_pipelines import PIPELINES, Setting


def measure(name: str, setting: Setting, skipped: int, measured: int) -> dict[str, float]:
    """Time the beginning of two epochs and a stretch in the middle of the second.

    Args:
        name: in ``PIPELINES``.
        setting: data, batch, workers.
        skipped: pictures of the second epoch before the stretch.
        measured: pictures of the stretch.
    """
    begin = time.perf_counter()
    epochs = PIPELINES[name].open(setting)
    batches: Iterator[Tensor] = iter(epochs(0))
    first = next(batches)
    figures = {"first_batch_s": time.perf_counter() - begin}
    if tuple(first.shape[1:]) != (3, 224, 224) or str(first.dtype) != "torch.uint8":
        raise SystemExit(f"{name} gives {tuple(first.shape)} {first.dtype}")
    pictures = len(first)
    for batch in batches:
        pictures += len(batch)
    figures["first_epoch_images_per_s"] = pictures / (time.perf_counter() - begin)
    begin = time.perf_counter()
    batches = iter(epochs(1))
    next(batches)
    figures["next_epoch_s"] = time.perf_counter() - begin
    _settle()
    _take(batches, skipped // setting.batch)
    cpu, wall = _cpu_seconds(), time.perf_counter()
    pictures = _take(batches, measured // setting.batch)
    figures["cpu_ms"] = (_cpu_seconds() - cpu) / pictures * 1000
    figures["images_per_s"] = pictures / (time.perf_counter() - wall)
    figures["memory_mb"] = _memory_mb()
    return figures


def _settle(quiet: float = 0.1, patience: float = 60.0) -> None:
    """Wait until all is read ahead that may be, and what starts in the background has started.

    Ray's workers have a low priority: beside threads that decode they take half a minute to start,
    and would be counted as the price of a picture.
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
    pictures = 0
    for _ in range(count):
        pictures += len(next(batches))
    return pictures


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
    """Measure, print the figures and what this process has started, and leave at once.

    Some pipelines hang when they are taken down; whoever started this process ends the rest.
    """
    name, data, *numbers = sys.argv[1:7]
    batch, workers, skipped, measured = map(int, numbers)
    rank, world, cache = sys.argv[7:] or ("0", "1", "")
    setting = Setting(
        data=data, batch=batch, workers=workers, rank=int(rank), world=int(world), cache=cache
    )
    figures = measure(name, setting, skipped, measured)
    started = [process.pid for process in _family()[1:]]
    print(json.dumps({"figures": figures, "started": started}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
