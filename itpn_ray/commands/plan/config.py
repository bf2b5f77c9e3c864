"""Settings of planning a run before it is started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from itpn_ray import checks
from itpn_ray.experiment import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is planned.

    Raises:
        ConfigError: a value lies outside its range.
    """

    measured_steps: int = 3
    """Steps that are run and timed here, after one to warm up; 0: none."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )
    """The run. With --machine, what it would cost."""

    def __post_init__(self) -> None:
        checks.not_negative("measured_steps", self.measured_steps)
