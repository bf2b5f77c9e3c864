"""Starts the processes in which input pipelines are measured."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start_child(name: str, data: str, *rest: object) -> Callable[[], dict[str, float]]:
    """Start a measurement, see `benchmarks.lib.input_measure`.

    Returns:
        A function that waits for it, ends what it left running, and returns its figures.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lib.input_measure", name, data, *map(str, rest)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def wait() -> dict[str, float]:
        out, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"{name} failed:\n{errors[-4000:]}")
        found = json.loads(out.splitlines()[-1])
        for pid in found["started"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found["figures"]

    return wait
