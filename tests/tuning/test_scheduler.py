"""Successive halving by dominance, on synthetic curves, against plain ASHA."""

from __future__ import annotations

import math

import numpy as np
import pytest

from itpn_ray.evaluation.pareto import pareto_front
from itpn_ray.tuning.scheduler import DominanceHalving, dominates, rungs, share_noise

SPEEDS = (100.0, 120.0, 150.0, 200.0)
COST = dict(zip(SPEEDS, (0.0, 0.01, 0.03, 0.06), strict=True))
"""Accuracy that each speed costs."""


def test_dominance() -> None:
    slow, fast = (100.0, 0.8), (200.0, 0.7)
    assert dominates([(200.0, 0.8)], [fast], 0.05)
    assert not dominates([slow], [fast], 0.0)  # it cannot do that speed
    assert not dominates([(200.0, 0.74)], [fast], 0.05)  # within the noise
    assert dominates([(100.0, 0.9), (200.0, 0.8)], [slow, fast], 0.05)
    assert not dominates([(100.0, 0.9), (200.0, 0.7)], [slow, fast], 0.05)


def test_noise_of_shares() -> None:
    assert share_noise(0.5, 200) == pytest.approx(0.05)
    assert share_noise(1.0, 100) > 0


def test_rungs_multiply() -> None:
    assert rungs(2, 20, 3) == (2, 6, 18)
    assert rungs(4, 4, 3) == ()


def test_with_one_speed_and_no_noise_it_is_asha() -> None:
    halving = DominanceHalving(rungs=(1, 3), reduction=2, noise=0.0)
    heard = [
        bool(halving.stopped_by(f"t{n}", 1, [(1.0, score)]))
        for n, score in enumerate((0.5, 0.4, 0.6, 0.55, 0.1))
    ]
    assert heard == [False, True, False, False, True]


def test_a_rung_is_judged_once_and_what_is_recalled_counts() -> None:
    halving = DominanceHalving(rungs=(2,), reduction=2, noise=0.0)
    assert halving.record("earlier", 2.0, [(1.0, 0.9)]) == 2
    assert halving.stopped_by("own", 1.0, [(1.0, 0.1)]) == []  # before the first rung
    assert halving.stopped_by("own", 2.0, [(1.0, 0.1)]) == ["earlier"]
    assert halving.stopped_by("own", 3.0, [(1.0, 0.1)]) == []


def curves(seed: int, count: int = 24) -> list[tuple[float, float]]:
    """Speed, and accuracy after all epochs, of trials in random order."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        speed = SPEEDS[number % len(SPEEDS)]
        found.append((speed, 0.8 - COST[speed] - 0.1 * float(rng.random())))
    return [found[i] for i in rng.permutation(count)]


def survivors(trials: list[tuple[float, float]], *, by_speed: bool) -> set[int]:
    """Trials that are trained to the end of 27 epochs when all train side by side."""
    halving = DominanceHalving(rungs=rungs(1, 27, 3), reduction=3, noise=0.002)
    alive = set(range(len(trials)))
    for epoch in halving.rungs:
        for number in sorted(alive):
            speed, final = trials[number]
            score = final * (1 - math.exp(-epoch / 3))
            offers = [(speed if by_speed else 1.0, score)]
            if halving.stopped_by(str(number), epoch, offers):
                alive.discard(number)
    return alive


def test_the_true_front_survives_where_plain_asha_loses_its_fast_end() -> None:
    lost = 0
    for seed in range(20):
        trials = curves(seed)
        front = set(pareto_front(trials))
        kept = survivors(trials, by_speed=True)
        assert front <= kept
        assert len(kept) < len(trials)
        lost += not front <= survivors(trials, by_speed=False)
    assert lost >= 10
