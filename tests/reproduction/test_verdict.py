from __future__ import annotations

import pytest

from itpn_ray.reproduction.grid import Claim
from itpn_ray.reproduction.verdict import ALONE, HOLDS, OPEN, OPPOSITE, judge

CLAIM = Claim(better="loaded", worse="not loaded", column="COCO box AP")


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        ([0.521, 0.522, 0.523], [0.500, 0.501, 0.503], HOLDS),
        ([0.500, 0.501, 0.503], [0.521, 0.522, 0.523], OPPOSITE),
        ([0.50, 0.52, 0.51], [0.51, 0.50, 0.52], OPEN),
        ([0.52], [0.50], ALONE),
        ([0.5, 0.5], [0.5, 0.5], OPEN),
    ],
)
def test_a_claim_is_judged_by_the_interval(
    better: list[float], worse: list[float], verdict: str
) -> None:
    assert judge(CLAIM, "box_AP", better, worse, (None, None))["verdict"] == verdict


def test_what_is_open_says_what_the_interval_excludes() -> None:
    # Differences -1, 2, -1 points: their mean is 0, and t(2) 4.303 x sqrt(3) / sqrt(3) = 4.3.
    found = judge(CLAIM, "box_AP", [0.50, 0.52, 0.51], [0.51, 0.50, 0.52], (0.521, 0.515))
    assert found["text"] == "+0.0 ± 4.3, does not show: the interval excludes more than +4.3"
    assert found["paper"] == pytest.approx(0.006)


def test_a_lower_loss_is_an_improvement() -> None:
    found = judge(CLAIM, "mim", [0.50, 0.51, 0.50], [0.60, 0.61, 0.61], (None, None))
    assert found["verdict"] == HOLDS
    assert found["difference"] == pytest.approx(0.1033, abs=1e-4)
