"""Settings of listing runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from itpn_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """Which runs are shown, and how.

    Raises:
        ConfigError: two ways are asked for at once.
    """

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = "out"
    """The --out of the runs: a folder or s3:// prefix."""
    best: bool = False
    """Name the best run instead."""
    metric: str = ""
    """By which metric; empty: the one that the newest run is judged by."""
    compare: tuple[str, ...] = ()
    """Names of two runs whose metrics, and settings that differ, are shown side by side."""

    def __post_init__(self) -> None:
        if self.compare and (len(self.compare) != 2 or self.best):
            raise ConfigError(
                "compare", self.compare, "takes two names, and no --best", "Name two runs"
            )
