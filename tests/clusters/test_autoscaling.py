from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_an_elastic_run_grows_onto_nodes_loses_one_shrinks_and_ends():
    """In a process of its own: this one may be connected to another Ray."""
    done = subprocess.run(
        [sys.executable, "benchmarks/autoscaling.py", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    happened = re.findall(r"^ *[\d.]+ s  (.+)$", done.stdout, re.MULTILINE)
    assert happened == [
        "the job is queued; there is no node for it",
        "the node on demand has come",
        "training with 1 worker",
        "two spot nodes have come",
        "training with 3 workers",
        "a spot node is killed, and the market is dry",
        "Ray has noticed",
        "training with 2 workers",
        "the job has ended with exit code 0",
        "all nodes have gone",
    ]
    resumed = [int(n) for n in re.findall(r"^resumed at step \d+ with (\d)", done.stdout, re.M)]
    assert 3 in resumed
    assert resumed[-1] == 2
