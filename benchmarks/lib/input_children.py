"""The processes in which input pipelines are measured, seen from the benchmark."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A pipeline in a process of its own, see `benchmarks.lib.input_measure`; it starts at once.

    Args:
        name: of the pipeline.
        data: what it reads.
        rest: the other arguments of a measurement.
    """

    def __init__(self, name: str, data: str, *rest: object) -> None:
        self._name = name
        self._errors = TemporaryFile()  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.lib.input_measure", name, data, *map(str, rest)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._started: list[int] = []

    def begin(self) -> None:
        """Ask for an epoch."""
        self._process.stdin.write("epoch\n")
        self._process.stdin.flush()

    def figures(self) -> dict[str, float]:
        """Wait for the figures of the start, or after it of the epoch asked for.

        Raises:
            SystemExit: the pipeline failed; with the end of what it printed.
        """
        for line in self._process.stdout:
            if line.startswith("{"):  # some libraries print as well
                found = json.loads(line)
                self._started = found["started"]
                return found["figures"]
        self._process.wait()
        self._errors.seek(0)
        raise SystemExit(f"{self._name} failed:\n{self._errors.read()[-4000:].decode()}")

    def close(self) -> None:
        """End the process and all it has started; some pipelines hang when they are taken down."""
        self._process.kill()
        for pid in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.communicate()
        self._errors.close()
