"""Table 7's rows: what is timed is what is trained."""

from __future__ import annotations

import pytest

from benchmarks.table7 import PAPER, ROWS, acceleration
from itpn_ray.tasks.config import ModelConfig


def test_six_rows() -> None:
    assert list(ROWS) == list(PAPER)
    assert len(ROWS) == 6


@pytest.mark.parametrize("row", ROWS)
def test_training_and_timing_mean_the_same_network(row: str) -> None:
    assert ModelConfig(**ROWS[row]).acceleration == acceleration(ROWS[row])
