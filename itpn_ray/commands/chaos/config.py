"""Settings of faults on request."""

from __future__ import annotations

from dataclasses import dataclass

from itpn_ray import checks
from itpn_ray.errors import ConfigError


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
