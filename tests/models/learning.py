"""How tests ask whether a network learns: the course of a training is a matter of the last bits."""

from __future__ import annotations

from collections.abc import Callable

ASKED_EVERY = 10


def train_until(learned: Callable[[], bool], step: Callable[[int], None], *, most: int) -> None:
    """Take steps until the network has learned, which is asked after every tenth.

    Args:
        learned: what no network knows by chance.
        step: takes the step with this number, from 0.
        most: steps, far more than it takes on any processor.

    Raises:
        AssertionError: it has not learned in so many steps.
    """
    for number in range(most):
        step(number)
        if (number + 1) % ASKED_EVERY == 0 and learned():
            return
    raise AssertionError(f"not learned in {most} steps")
