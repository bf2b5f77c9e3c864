"""Timing of cases against each other: in one run, in turn, so that all meet the same machine."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from itpn_ray.allocator import keep_pages

Case = Callable[[], object]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def interleave(
    cases: Mapping[str, Case], device: torch.device, *, repeats: int, least: float = 0.0
) -> dict[str, float]:
    """Median seconds of one call of each case.

    Every round times every case once, in an order that rotates from round to round.

    Args:
        cases: what to time, by name; each is called twice before, untimed.
        device: waited for before and after each timing.
        repeats: rounds.
        least: seconds that one timing should take at least; short cases are called several times.
    """
    calls = {}
    for name, case in cases.items():
        case()
        once = _time(case, device, 1)
        calls[name] = max(1, round(least / once))
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(_time(cases[name], device, calls[name]))
    return {name: statistics.median(times) for name, times in seconds.items()}


def _time(case: Case, device: torch.device, calls: int) -> float:
    _wait(device)
    begin = time.perf_counter()
    for _ in range(calls):
        case()
    _wait(device)
    return (time.perf_counter() - begin) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def new_parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark of networks has."""
    parser = argparse.ArgumentParser(description=description)
    gpu = torch.cuda.is_available()
    parser.add_argument("--quick", action="store_true", help="a small run; writes under out/")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu else "cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="float32 on a CPU, else bfloat16")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--repeats", type=int, help="rounds; the median counts")
    parser.add_argument("--out", type=Path, help="folder of the results")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, with defaults that depend on each other filled in."""
    options = parser.parse_args()
    options.dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
    options.repeats = options.repeats or (3 if options.quick else 9)
    options.out = options.out or Path("out/benchmarks" if options.quick else "benchmarks/results")
    if options.device == "cpu":
        keep_pages()  # as training does; every network in the run has it
    torch._dynamo.config.recompile_limit = 64  # one form of the network a case
    return options


def suffix(options: argparse.Namespace) -> str:
    """Of result files: device, type and compilation, such as "cuda-bfloat16-compile"."""
    return "-".join([options.device, options.dtype] + ["compile"] * options.compile)


def machine(device: str) -> dict[str, Any]:
    """Where the figures come from."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
