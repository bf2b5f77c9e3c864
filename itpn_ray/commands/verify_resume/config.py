"""Settings of the kill test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from itpn_ray import checks


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """The kill test on a run's own configuration.

    Raises:
        ConfigError: a value lies outside its range.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, out/RUN; its configuration is what is tested."""
    data: str = ""
    """The run's prepared data where they have moved since; empty: where the run had them."""
    steps: int = 30
    """Steps of the test."""
    every_steps: int = 5
    """Steps between checkpoints in the test."""
    kills: int = 1
    """Workers killed, each at a random step."""
    workers: str = ""
    """Training workers; empty: as many as the run has."""
    seed: int = 0
    """Seed of the choice of steps and workers."""

    def __post_init__(self) -> None:
        for field in ("steps", "every_steps", "kills"):
            checks.positive(field, getattr(self, field))
        checks.in_range("kills", self.kills, 1, self.steps - 1)
