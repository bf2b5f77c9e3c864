"""Checks that configuration classes share: each raises ConfigError with field, value and hint."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from itpn_ray.errors import ConfigError


def in_range(field: str, value: float, low: float, high: float, *, open_high: bool = False) -> None:
    """Require ``low <= value <= high`` (``< high`` where ``open_high``).

    Raises:
        ConfigError: the value lies outside.
    """
    inside = low <= value < high if open_high else low <= value <= high
    if not inside:
        bracket = ")" if open_high else "]"
        raise ConfigError(
            field, value, f"must lie in [{low:g}, {high:g}{bracket}", "Choose a value in the range"
        )


def positive(field: str, value: float) -> None:
    """Require ``value > 0``.

    Raises:
        ConfigError: the value is zero or negative.
    """
    if not value > 0:
        raise ConfigError(field, value, "must be positive", "Choose a value above zero")


def not_negative(field: str, value: float) -> None:
    """Require ``value >= 0``.

    Raises:
        ConfigError: the value is negative.
    """
    if not value >= 0:
        raise ConfigError(field, value, "must not be negative", "Choose zero or more")


def within(name: str, named: Iterable[str]) -> bool:
    """Whether a dotted field is one of those named, or of a group that is."""
    # A whole name or a group, never the mere beginning of another name.
    return any(name == one or name.startswith(f"{one}.") for one in named)


def one_of(field: str, value: str, known: Collection[str]) -> None:
    """Require ``value`` to be one of the known names, and name the nearest one otherwise.

    Raises:
        ConfigError: the name is unknown.
    """
    if value in known:
        return
    raise ConfigError(field, value, "is not known", nearest(value, known))


def unused(field: str, value: str, known: Collection[str]) -> None:
    """Require ``value`` not to be taken yet.

    Raises:
        ConfigError: it is one of the known names.
    """
    if value in known:
        raise ConfigError(field, value, "is taken already", "Choose another name")


def nearest(value: str, known: Collection[str]) -> str:
    """The hint for a mistyped name: the nearest known one, or all of them."""
    from difflib import get_close_matches

    close = get_close_matches(value, known, n=1)
    listed = ", ".join(sorted(known))
    return f"Did you mean {close[0]!r}? Known: {listed}" if close else f"Known: {listed}"
