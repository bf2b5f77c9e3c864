"""How stage 3 is accelerated, as plain data: no torch here, so that configurations stay light."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from itpn_ray import checks
from itpn_ray.errors import ConfigError

REDUCTIONS = ("none", "migration", "tome", "random")
RELATIVE_POSITIONS = ("none", "windows", "windows+cross")


@dataclass(frozen=True, kw_only=True)
class Acceleration:
    """Token migration and token gathering (paper section 4), and what they are compared with.

    The default changes nothing. Every setting works on any trained weights; gathering adds one
    learned token and the two relative positions add tables that start at zero.
    """

    reduction: str = "none"
    """What thins the tokens out: "migration" (paper 4.1), "tome" (merging), "random" or "none"."""
    ratio: float = 0.0
    """r, the fraction of stage 3's tokens that the last block no longer sees; in [0, 1)."""
    window: int = 0
    """Largest side of an attention window, tokens; 0: attention over the whole map."""
    gathering: bool = False
    """Whether each window has a gathering token, through which windows see each other (4.2)."""
    relative_position: str = "none"
    """Learned position bias: "none", in "windows" (HRPE) or "windows+cross" (RPE), Table 7."""

    def __post_init__(self) -> None:
        checks.one_of("reduction", self.reduction, REDUCTIONS)
        if not 0.0 <= self.ratio < 1.0:
            raise ConfigError(
                "ratio",
                self.ratio,
                "it is a fraction of the tokens",
                "Use a number from 0 to below 1",
            )
        if self.ratio and self.reduction == "none":
            raise ConfigError(
                "ratio", self.ratio, 'reduction is "none"', 'Use reduction "migration", or ratio 0'
            )
        self._check_windows()

    def _check_windows(self) -> None:
        if self.window < 0:
            raise ConfigError("window", self.window, "is negative", "Use 0 for the whole map")
        if self.gathering and not self.window:
            raise ConfigError(
                "gathering", True, "gathering tokens belong to windows", "Set window, such as 16"
            )
        checks.one_of("relative_position", self.relative_position, RELATIVE_POSITIONS)
        if self.relative_position != "none" and not self.window:
            raise ConfigError(
                "relative_position",
                self.relative_position,
                "its offsets are those inside a window",
                "Set window, such as 16",
            )
        if self.relative_position == "windows+cross" and not self.gathering:
            raise ConfigError(
                "relative_position",
                self.relative_position,
                "cross attention reads gathering tokens, and there are none",
                'Switch gathering on, or use "windows"',
            )

    @property
    def active(self) -> bool:
        """Whether anything differs from the plain network."""
        return self.window > 0 or self.ratio > 0.0


class Accelerated:
    """The switches of a network that holds a trunk; they work at any time, on any weights.

    Switching gathering off drops its token and what it learned across windows; another window's
    side drops the tables of offsets inside windows. All else that was learned is kept.
    """

    config: Any
    trunk: Any

    @property
    def acceleration(self) -> Acceleration:
        """What is on now."""
        return self.config.trunk.acceleration

    def set_acceleration(self, acceleration: Acceleration) -> None:
        """Switch to `acceleration`.

        Raises:
            ConfigError: its ratio is too large for the trunk's depth.
        """
        self.trunk.set_acceleration(acceleration)
        self.config = replace(self.config, trunk=self.trunk.config)

    def set_migration(self, ratio: float) -> None:
        """Let the fraction `ratio` of stage 3's tokens migrate (paper 4.1); 0: none."""
        self.set_reduction("migration", ratio)

    def set_reduction(self, kind: str, ratio: float = 0.0) -> None:
        """Thin tokens out by `kind`: "migration", "tome", "random" or "none"."""
        self.set_acceleration(replace(self.acceleration, reduction=kind, ratio=ratio))

    def set_gathering(
        self, window: int = 16, *, gathering: bool = True, relative_position: str | None = None
    ) -> None:
        """Attend in windows, with or without gathering tokens (paper 4.2); window 0: neither.

        ``relative_position`` None is what is on now, as far as such windows have it.
        """
        gathering = gathering and window > 0
        if relative_position is None:
            relative_position = _kept(self.acceleration.relative_position, window, gathering)
        self.set_acceleration(
            replace(
                self.acceleration,
                window=window,
                gathering=gathering,
                relative_position=relative_position,
            )
        )


def _kept(relative_position: str, window: int, gathering: bool) -> str:
    """What of a relative position such windows can have."""
    if not window:
        return "none"
    return "windows" if relative_position != "none" and not gathering else relative_position
