"""What a run's moving average will hold at the end, said before the run starts."""

from __future__ import annotations

from itpn_ray.experiment import ExperimentConfig
from itpn_ray.formatting import number_of
from itpn_ray.tasks.averaging import decay_at, first_fraction

SMALL = 1e-4
"""Fractions below it are said to be less."""


def describe_average(config: ExperimentConfig, steps: int) -> str:
    """The decay at the end, and how much of the first weights is left; empty without an average.

    Args:
        config: the experiment.
        steps: steps of the whole run.
    """
    what, decay = config.task.average
    if not what:
        return ""
    left = first_fraction(decay, steps)
    percent = f"{100 * left:.3g} %" if left >= SMALL else f"less than {100 * SMALL:g} %"
    return (
        f"{what}: decay {decay_at(decay, steps - 1):.5g} at the end of {number_of(steps, 'step')}, "
        f"with {percent} of the first weights left"
    )
