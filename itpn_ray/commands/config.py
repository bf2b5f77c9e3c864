"""Settings of what is done with a run: evaluation, report, the kill test, faults on request."""

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
    """A run's folder, or an exported .safetensors file of a classifier or a detector."""
    data: str
    """Prepared data: a folder or URI written by `itpn-ray prepare`."""
    split: str = "val"
    """Split to evaluate on."""
    migration: tuple[float, ...] = (0.0,)
    """Migration ratios r (paper, 4.1), e.g. --migration 0 0.1 0.3."""
    window: int | None = None
    """Largest side of an attention window, tokens; 0: the whole map (paper, 4.2). None: as it was
    trained."""
    gathering: bool = False
    """Give the windows named by ``window`` gathering tokens."""
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
        checks.not_negative("batch", self.batch)
        checks.positive("threads", self.threads)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Whose report is written again."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, an evaluation, a sweep, or prepared data: out/RUN."""


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


@dataclass(frozen=True, kw_only=True)
class ChaosConfig:
    """Faults on request, against a run that is under way or the storage it uses.

    Raises:
        ConfigError: nothing is asked for, or a value lies outside its range.
    """

    run: str = ""
    """Folder of a run under way, out/RUN, whose workers are disturbed."""
    kills: int = 0
    """Workers of the run that are killed (SIGKILL), one after the other."""
    every_s: float = 30.0
    """Seconds between two kills."""
    full_disk_mb: float = 0.0
    """Let the run's first worker write no file beyond this size, MB, for ``every_s`` seconds."""
    s3: str = ""
    """An S3 server, http://HOST:PORT, to put a flaky one in front of, until Ctrl-C."""
    refuse: float = 0.3
    """Share of the requests to it that are answered 503."""
    delay_s: float = 0.0
    """Seconds before each of its answers."""
    seed: int = 0
    """Seed of the choice."""

    def __post_init__(self) -> None:
        checks.not_negative("kills", self.kills)
        checks.positive("every_s", self.every_s)
        checks.not_negative("full_disk_mb", self.full_disk_mb)
        checks.in_range("refuse", self.refuse, 0.0, 1.0)
        checks.not_negative("delay_s", self.delay_s)
        if not self.s3 and not (self.run and (self.kills or self.full_disk_mb)):
            raise ConfigError(
                "chaos",
                None,
                "asks for no fault",
                "Give --run out/RUN with --kills or --full-disk-mb, or --s3 http://HOST:PORT",
            )
