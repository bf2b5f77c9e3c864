"""Settings of evaluating a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from itpn_ray import checks
from itpn_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated, on what, and at which migration ratios.

    Raises:
        ConfigError: a value lies outside its range.
    """

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """A run's folder, or a weight file, of a classifier or a detector."""
    data: str
    """Prepared data: a folder or URI written by `itpn-ray prepare`."""
    key: str | None = None
    """Which network of a file that holds several, such as model_ema; None: the command
    says which it takes."""
    split: str = "val"
    """Split to evaluate on."""
    migration: tuple[float, ...] = (0.0,)
    """Migration ratios r (paper, 4.1), e.g. --migration 0 0.1 0.3."""
    window: int | None = None
    """Largest side of an attention window, tokens; 0: the whole map (paper, 4.2). None: as it was
    trained."""
    gathering: bool = False
    """Give the windows named by ``window`` gathering tokens."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes at which a segmenter sees an image, such as 0.5 0.75 1 1.25 1.5 1.75."""
    mirror: bool = False
    """Let a segmenter see an image mirrored too."""
    batch: int = 0
    """Images a forward pass; 0: 64 of a classifier, 1 of a detector."""
    threads: int = 2
    """Compute threads on a CPU."""
    gpu: bool | None = None
    """Evaluate on a GPU in bf16. None: where there is one."""
    run: str = "evaluate"
    """Name of the run."""
    out: str = "out"
    """Folder of all runs."""

    def __post_init__(self) -> None:
        for r in self.migration:
            checks.in_range("migration", r, 0.0, 0.9)
        checks.not_negative("window", self.window or 0)
        if self.gathering and not self.window:
            raise ConfigError(
                "gathering", True, "gathering tokens belong to windows", "Add --window 16"
            )
        for scale in self.scales:
            checks.in_range("scales", scale, 0.1, 10.0)
        checks.not_negative("batch", self.batch)
        checks.positive("threads", self.threads)
