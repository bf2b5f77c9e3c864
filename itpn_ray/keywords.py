"""From the keyword arguments of a Python call to settings."""

from __future__ import annotations

import dataclasses
import numbers
import os
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from itpn_ray import checks
from itpn_ray.errors import ConfigError

T = TypeVar("T")
_NUMBERS = {int: numbers.Integral, float: numbers.Real}
_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a dict",
    list: "a list",
    type(None): "None",
}


def settings(
    cls: type[T], given: Mapping[str, Any], default: T | None = None, prefix: str = ""
) -> T:
    """Settings of a class from keyword arguments; groups of settings are mappings.

    Args:
        cls: the settings class.
        given: value by field. Of a group, such as ``optim``, a mapping of what is to be changed in
            it. Paths may be ``Path``, lists may stand for tuples, numbers for text.
        default: an instance, of which the rest is taken; None: the class's own defaults.
        prefix: what stands before the fields in errors.

    Raises:
        ConfigError: a field is unknown, or a value is of another type or cannot be used.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    groups = _groups(cls, default)
    values = {}
    for name, value in given.items():
        field = prefix + name
        if name not in names:
            raise ConfigError(field, value, "is no setting", _hint(name, names, groups))
        group = groups.get(name)
        if group is not None and isinstance(value, Mapping):
            values[name] = settings(type(group), value, group, f"{field}.")
        else:
            values[name] = _value(field, value, hints[name])
    return cls(**values) if default is None else dataclasses.replace(default, **values)  # type: ignore[type-var]


def call(function: str, *arguments: object, **given: Any) -> str:
    """The Python that calls a function of this package, for the records of a run."""
    words = [repr(_plain(value)) for value in arguments]
    words += [f"{name}={_plain(value)!r}" for name, value in given.items()]
    return f"itpn_ray.{function}({', '.join(words)})"


def _hint(name: str, names: Sequence[str], groups: Mapping[str, Any]) -> str:
    """What to write for a name that is none: that of a group has to stand in it."""
    last = name.rpartition(".")[2]
    for group, held in groups.items():
        if any(field.name == last for field in dataclasses.fields(held)):
            return f'Write {group}={{"{last}": ...}}'
    return checks.nearest(name, names)


def _groups(cls: type, default: object) -> dict[str, Any]:
    """The fields that are settings of their own, with what they hold unless changed."""
    values = {}
    for field in dataclasses.fields(cls):
        if default is not None:
            values[field.name] = getattr(default, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}


def _value(field: str, value: Any, hint: Any) -> Any:
    """A value as its field has it.

    Raises:
        ConfigError: it is of another type.
    """
    hints = alternatives(hint)
    for one in hints:
        kind = typing.get_origin(one) or one
        if kind is tuple and isinstance(value, list | tuple):
            inner = typing.get_args(one)
            return tuple(_value(field, each, inner[0]) for each in value)
        if kind in (int, float) and isinstance(value, _NUMBERS[kind]) and value is not bool(value):
            return kind(value)  # also of NumPy's numbers, which JSON does not know
        if kind is str and (isinstance(value, os.PathLike) or type(value) is int):
            return str(_plain(value))
        if kind is typing.Literal and value in typing.get_args(one):
            return value
        if isinstance(kind, type) and type(value) is kind:
            return value
        if dataclasses.is_dataclass(kind) and isinstance(value, typing.cast(type, kind)):
            return value
    raise ConfigError(field, value, f"is {_named(type(value))}", f"Give {in_words(hints)}")


def _plain(value: Any) -> Any:
    """A path as text."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have: one, or those of a union."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def in_words(hints: tuple[Any, ...]) -> str:
    """The types that a field may have, for people."""
    return " or ".join(_named(hint) for hint in hints)


def _named(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return "a list"
    if dataclasses.is_dataclass(hint):
        return "a dict of settings"
    return _WORDS.get(hint) or str(getattr(hint, "__name__", hint))
