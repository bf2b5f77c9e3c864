"""Two drivers on two machines whose clocks differ by five minutes: one run, one driver."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.lib.machine_cluster import Cluster
from benchmarks.lib.machines import missing

pytestmark = [pytest.mark.hosts, pytest.mark.skipif(bool(missing()), reason=missing())]
AHEAD, BEHIND = 0, 1
DRIVER = """
import sys, time
from itpn_ray.runs.lease import Lease
with Lease("s3://machines/run", name="run", heartbeat=0.5, stale_after=4.0) as lease:
    print("drives", flush=True)
    for _ in range(int(sys.argv[1])):
        time.sleep(0.1)
        lease.check()
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Cluster]:
    """Two machines and an S3 server, without Ray."""
    with Cluster(2, tmp_path, ray=False) as cluster:
        yield cluster


def test_a_run_has_one_driver_whatever_the_clocks_say(machines: Cluster, tmp_path: Path) -> None:
    on = machines.machines
    with machines.wrong_clock(BEHIND, -300):
        first = on.start(BEHIND, ["python", "-c", DRIVER, "6000"], tmp_path / "first")
        while "drives" not in (tmp_path / "first").read_text():
            assert first.poll() is None, (tmp_path / "first").read_text()
            time.sleep(0.1)
        # Longer than a holder may be silent, by a clock that is right.
        time.sleep(5)
        second = on.run(AHEAD, ["python", "-c", DRIVER, "1"])
        assert "run = 'run': is in use by process" in second.stderr, second
        on.lose(BEHIND)
        time.sleep(5)
        third = on.run(AHEAD, ["python", "-c", DRIVER, "1"])
        assert third.stdout == "drives\n", third.stderr
