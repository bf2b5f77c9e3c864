"""Settings of looking a data set over. Imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from itpn_ray import checks
from itpn_ray.data.prepare.config import FORMATS


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What is examined, and where its faults are listed.

    Raises:
        ConfigError: a value lies outside its range.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE_OR_DATA")]
    """Prepared data, or raw images with annotated objects or masks: a folder or URI."""
    format: str = "auto"
    """How raw images are laid out, as the --format of ``itpn-ray prepare``."""
    out: str = "doctor.csv"
    """File for the list of faults, replaced whole."""
    threads: int = 4
    """Images, or shards of prepared data, examined at once."""

    def __post_init__(self) -> None:
        checks.one_of("format", self.format, FORMATS)
        checks.positive("threads", self.threads)
