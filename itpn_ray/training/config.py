"""Settings of evaluation from a weight file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from itpn_ray import checks


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated, on what, and at which migration ratios.

    Raises:
        ConfigError: a value lies outside its range.
    """

    weights: Annotated[str, tyro.conf.Positional]
    """A run's folder, or an exported .safetensors file of a classifier."""
    data: str
    """Prepared data: a folder or URI written by `itpn-ray prepare`."""
    split: str = "val"
    """Split to evaluate on."""
    migration: tuple[float, ...] = (0.0,)
    """Migration ratios r (paper, 4.1), e.g. --migration 0 0.1 0.3."""
    batch: int = 64
    """Pictures a forward pass."""
    threads: int = 2
    """Compute threads on a CPU."""
    gpu: bool = False
    """Evaluate on a GPU in bf16."""
    run: str = "evaluate"
    """Name of the run."""
    out: str = "out"
    """Folder of all runs."""

    def __post_init__(self) -> None:
        for r in self.migration:
            checks.in_range("migration", r, 0.0, 0.9)
        for field in ("batch", "threads"):
            checks.positive(field, getattr(self, field))
