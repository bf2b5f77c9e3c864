"""Table 7's rows as settings of the network, and as words of the command line."""

from __future__ import annotations

import pytest

from benchmarks.table7 import PAPER, ROWS, acceleration, run_name
from itpn_ray.tasks.config import ModelConfig


def test_six_rows() -> None:
    assert list(ROWS) == list(PAPER)
    assert len({run_name(row) for row in ROWS}) == 6


@pytest.mark.parametrize("row", ROWS)
def test_training_and_timing_mean_the_same_network(row: str) -> None:
    assert ModelConfig(**ROWS[row]).acceleration == acceleration(ROWS[row])
