"""Settings of looking a data set over. Imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from itpn_ray import checks


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What is examined, and where its faults are listed.

    Raises:
        ConfigError: a value lies outside its range.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE_OR_DATA")]
    """Prepared data, or raw images with COCO or Objects365 annotations or with masks: a folder or
    URI."""
    out: str = "doctor.csv"
    """File for the list of faults, replaced whole."""
    threads: int = 4
    """Images, or shards of prepared data, examined at once."""

    def __post_init__(self) -> None:
        checks.positive("threads", self.threads)
