"""Measures one input pipeline in a process of its own; prints its figures as one JSON line.

    python -m benchmarks.lib.input_child NAME DATA BATCH WORKERS WARM MEASURED [RANK WORLD]

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


def measure(name: str, setting: Setting, warm: int, measured: int) -> dict[str, float]:
    """Run two beginnings of an epoch and a stretch in the middle of one.

    Args:
        name: in ``PIPELINES``.
        setting: data, batch, workers.
        warm: pictures before the stretch.
        measured: pictures of the stretch.
    """
    begin = time.perf_counter()
    epochs = PIPELINES[name].open(setting)
    batches: Iterator[Tensor] = iter(epochs(0))
    first = next(batches)
    figures = {"first_batch_s": time.perf_counter() - begin}
    if tuple(first.shape[1:]) != (3, 224, 224) or str(first.dtype) != "torch.uint8":
        raise SystemExit(f"{name} gives {tuple(first.shape)} {first.dtype}")
    _take(batches, warm // setting.batch)
    cpu, wall = _cpu_seconds(), time.perf_counter()
    pictures = _take(batches, measured // setting.batch)
    figures["cpu_ms"] = (_cpu_seconds() - cpu) / pictures * 1000
    figures["images_per_s"] = pictures / (time.perf_counter() - wall)
    figures["memory_mb"] = _memory_mb()
    for batch in batches:
        del batch
    begin = time.perf_counter()
    next(iter(epochs(1)))
    figures["next_epoch_s"] = time.perf_counter() - begin
    return figures


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
    """Measure and print; leave at once, because some pipelines hang when they are taken down."""
    name, data, *numbers = sys.argv[1:]
    batch, workers, warm, measured, rank, world = [*map(int, numbers), *(0, 1)][:6]
    setting = Setting(data=Path(data), batch=batch, workers=workers, rank=rank, world=world)
    figures = measure(name, setting, warm, measured)
    print(json.dumps(figures), flush=True)
    family = _family()[1:]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=10)
    os._exit(0)


if __name__ == "__main__":
    main()
