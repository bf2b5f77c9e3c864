"""Faults on request strike the workers that a run's folder tells of, and say so."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from itpn_ray.commands.chaos.config import ChaosConfig
from itpn_ray.commands.chaos.run import chaos
from itpn_ray.errors import ConfigError
from itpn_ray.terminal.console import Console

WORKER = """
import sys
from itpn_ray.runs.journal import FileJournal
FileJournal(sys.argv[1]).status(0, phase="computing", step=7)
print("told", flush=True)
while True:
    line = sys.stdin.readline()
    try:
        with open(sys.argv[1] + "/big", "wb") as file:
            file.write(bytes(3_000_000))
        print("written", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has told its status in ``tmp_path`` and writes 3 MB for every line it gets."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "told\n"
    yield process
    process.kill()
    process.wait()


def test_a_worker_is_killed_the_hard_way(worker: subprocess.Popen[str], tmp_path: Path) -> None:
    said = io.StringIO()
    chaos(ChaosConfig(run=str(tmp_path), kills=1), Console(stream=said))
    assert worker.wait(10) == -9
    assert f"killed worker 0 (pid {worker.pid}) near step 7" in said.getvalue()


def test_a_worker_finds_its_disk_full_for_a_while(
    worker: subprocess.Popen[str], tmp_path: Path
) -> None:
    class Asking(Console):
        """Lets the worker write while the fault lasts."""

        def say(self, text: str) -> None:
            answers.append(write(worker))
            super().say(text)

    answers: list[str] = []
    answers.append(write(worker))
    chaos(
        ChaosConfig(run=str(tmp_path), full_disk_mb=1, every_s=0.01), Asking(stream=io.StringIO())
    )
    answers.append(write(worker))
    assert answers == ["written", "OSError", "written"]


def write(worker: subprocess.Popen[str]) -> str:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return worker.stdout.readline().strip()


def test_a_run_without_workers_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no worker under way"):
        chaos(ChaosConfig(run=str(tmp_path), kills=1), Console(stream=io.StringIO()))


def test_no_fault_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="asks for no fault"):
        ChaosConfig(run="out/run")
