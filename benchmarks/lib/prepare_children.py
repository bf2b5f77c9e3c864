"""The processes in which preparation is measured, seen from the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(
    mode: str, source: Path, out: Path, workers: int, side: int, rows: int = 256
) -> subprocess.Popen[str]:
    """A child in a process group of its own, so that a kill takes all of it."""
    arguments = [mode, str(source), str(out), str(workers), str(side), str(rows)]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lib.prepare_child", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def lines(child: subprocess.Popen[str]) -> Iterator[dict[str, float]]:
    """What a child prints, as it comes; ends with the child."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("{"):
            yield json.loads(line)
    if child.wait():
        raise SystemExit(f"{child.args} failed")
