"""Runs and sweeps on three machines that share nothing, of which some are cut off or lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.hosts import Bench, Row
from benchmarks.lib.machine_cluster import BUCKET, Cluster
from benchmarks.lib.machines import missing

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Three machines."""
    with Cluster(3, tmp_path_factory.mktemp("logs")) as cluster:
        yield Bench(cluster)


def went_on(row: Row) -> None:
    """In the same command, to the same bits where as many workers trained."""
    assert row.outcome.startswith("went on"), row
    assert row.equal is not False, row


def test_a_cable_that_is_pulled_for_a_moment(bench: Bench) -> None:
    went_on(bench.worker_cut_10())


def test_a_store_that_is_away_for_a_minute(bench: Bench) -> None:
    went_on(bench.store_away())


def test_a_machine_that_is_lost_with_its_disk(bench: Bench) -> None:
    went_on(bench.worker_lost())


def test_a_second_driver_is_refused_though_its_clock_is_wrong(bench: Bench) -> None:
    row = bench.two_drivers()
    assert row.outcome == "the second is refused", row
    assert row.equal


def test_a_sweep_on_all_machines_loses_one_of_them_and_no_trial(bench: Bench) -> None:
    row = bench.sweep_worker_lost()
    assert row.outcome.startswith("6 trials on h0, h1, h2 in "), row


def test_a_lost_head_is_replaced_by_one_on_another_machine(bench: Bench) -> None:
    row = bench.head_lost()
    went_on(row)
    assert row.equal


def test_nothing_is_left_running_or_told(bench: Bench, tmp_path: Path) -> None:
    assert bench.left_behind().outcome == "running: []; secrets: []"
    for log in bench.cluster.folder.iterdir():
        assert "canary" not in log.read_text(errors="replace"), log
    assert not [key for key in bench.cluster.ask("keys", BUCKET) if "/.staging" in key]
