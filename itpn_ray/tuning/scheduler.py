"""Successive halving by dominance: which trials stop early.

Plain ASHA compares all trials by accuracy alone, so the fast ones, which trade some of it for
speed, stop first. Here only a trial that can do the same speed beats another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

Offer = tuple[float, float]
"""Images a second, and the accuracy (more is better) at that speed."""


def dominates(other: Sequence[Offer], own: Sequence[Offer], noise: float) -> bool:
    """Whether ``other`` is better by more than ``noise`` at every speed that ``own`` offers."""
    return all(
        any(speed >= own_speed and score > own_score + noise for speed, score in other)
        for own_speed, own_score in own
    )


def share_noise(share: float, count: int) -> float:
    """The standard error of the difference of two shares of ``count`` images, both about
    ``share``.
    """
    # Never below the variance of one image: a share of 0 or 1 is no certainty.
    return math.sqrt(2 * max(share * (1 - share), 1 / count) / count)


def rungs(grace: float, longest: float, reduction: int) -> tuple[float, ...]:
    """Epochs at which trials are compared: from ``grace`` on, each ``reduction`` times the last."""
    found = []
    epoch = grace
    # None at the very end, where stopping saves nothing.
    while epoch < longest:
        found.append(epoch)
        epoch *= reduction
    return tuple(found)


@dataclass(kw_only=True)
class DominanceHalving:
    """Asynchronous successive halving (Li et al., ASHA, 2020) of trials that offer speeds.

    Of the n trials at a rung that can do all speeds that a trial offers, itself among them, n /
    ``reduction`` must be better to stop it. With one speed and no noise that is ASHA.

    Attributes:
        rungs: epochs at which trials are compared, ascending.
        reduction: one in so many goes on.
        noise: difference of accuracies within which trials count as equal.
        reached: rung -> trial -> what it offered there.
    """

    rungs: tuple[float, ...]
    reduction: int
    noise: float
    reached: dict[float, dict[str, Sequence[Offer]]] = field(default_factory=dict)

    def record(self, trial: str, epoch: float, offers: Sequence[Offer]) -> float | None:
        """Note what a trial offers after an epoch; the rung that it has come to with it."""
        # Evaluations need not fall on rungs: the first one at or after a rung counts for it.
        rung = max((rung for rung in self.rungs if rung <= epoch), default=None)
        if rung is None or trial in self.reached.setdefault(rung, {}):
            return None
        self.reached[rung][trial] = offers
        return rung

    def stopped_by(self, trial: str, epoch: float, offers: Sequence[Offer]) -> list[str]:
        """The trials that stop this one after an epoch; none where it goes on."""
        rung = self.record(trial, epoch, offers)
        if rung is None:
            return []
        # A noise of minus infinity leaves nothing but the speeds to compare.
        able = {
            name: other
            for name, other in self.reached[rung].items()
            if dominates(other, offers, -math.inf)  # among them the trial itself
        }
        better = [name for name in able if dominates(able[name], offers, self.noise)]
        # One at least, for the fraction is below one while few trials have come so far.
        return better if len(better) >= max(1, len(able) / self.reduction) else []
