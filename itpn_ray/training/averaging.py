"""What a run's moving average will hold at the end, said before the run starts."""

from __future__ import annotations

from itpn_ray.experiment import ExperimentConfig
from itpn_ray.tasks.averaging import decay_at, first_share
from itpn_ray.tasks.config import Classification, Detection
from itpn_ray.tasks.pretraining_config import PixelPretraining

SMALL = 1e-4
"""Shares below it are said to be less."""


def describe_average(config: ExperimentConfig, steps: int) -> str:
    """The decay at the end, and how much of the first weights is left; empty without an average.

    Args:
        config: the experiment.
        steps: steps of the whole run.
    """
    what, decay = _average(config)
    if not what:
        return ""
    left = first_share(decay, steps)
    share = f"{100 * left:.3g} %" if left >= SMALL else f"less than {100 * SMALL:g} %"
    return (
        f"{what}: decay {decay_at(decay, steps - 1):.5g} at the end of {steps:,} steps, "
        f"with {share} of the first weights left"
    )


def _average(config: ExperimentConfig) -> tuple[str, float]:
    """What is averaged, and its decay; nothing and 0 where there is no average."""
    task = config.task
    if isinstance(task, Classification | Detection) and task.ema_decay > 0:
        return "evaluated and exported weights", task.ema_decay
    if isinstance(task, PixelPretraining) and task.feature_weight > 0:
        return "teacher of the feature loss", task.teacher_momentum
    return "", 0.0
