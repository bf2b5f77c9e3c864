"""Builds manifests from JSON, and refuses what is of another type."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from itpn_ray.errors import ItpnError

T = TypeVar("T")


def read_json(data: bytes) -> Any:
    """Whatever a JSON text says.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def build(cls: type[T], found: object) -> T:
    """An instance of a dataclass from the JSON object that `dataclasses.asdict` gave.

    Fields may be dataclasses, ``str``, ``int``, ``float``, ``bool``, ``None``, ``Any``, tuples,
    mappings from strings, and unions of these.

    Raises:
        ValueError: a field is missing, unknown, or of another type, and is named.
    """
    return typing.cast(T, _value(cls, found, ""))


def _value(hint: Any, found: Any, where: str) -> Any:
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is types.UnionType:
        return _any_of(inner, found, where)
    if dataclasses.is_dataclass(kind) and isinstance(found, dict):
        return _instance(typing.cast(type, kind), found, where)
    if kind is tuple and isinstance(found, list):
        # `tuple[T, ...]` has one hint for any number of values, other tuples one for each.
        hints = inner[:1] * len(found) if inner[1:] == (...,) else inner
        if len(hints) == len(found):
            pairs = enumerate(zip(hints, found, strict=True))
            return tuple(_value(of, value, f"{where}[{n}]") for n, (of, value) in pairs)
    if kind is Mapping and isinstance(found, dict):
        return {name: _value(inner[1], value, f"{where}.{name}") for name, value in found.items()}
    # JSON does not tell 2 from 2.0, and what wrote it may have left out the point.
    if kind is float and type(found) is int:
        return float(found)
    if kind is str and isinstance(found, str):
        found.encode()  # JSON can write halves of characters, which nothing else takes
    # `type is`, not `isinstance`: a bool must not pass for an int.
    if kind is Any or type(found) is kind:
        return found
    raise ValueError(f"{where.lstrip('.') or 'it'} is of the type {type(found).__name__}")


def _any_of(hints: tuple[Any, ...], found: Any, where: str) -> Any:
    """The value as the first of several types that it has."""
    for hint in hints[:-1]:
        try:
            return _value(hint, found, where)
        # The errors of earlier types are dropped: only that of the last one is told.
        except ValueError:
            continue
    return _value(hints[-1], found, where)


def _instance(cls: type, found: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    # Fields with init=False are derived from the others and are not part of the JSON.
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    unknown = sorted(found.keys() - fields)
    if unknown:
        raise ValueError(f"{where}.{unknown[0]} is no field".lstrip("."))
    values = {name: _value(hints[name], found[name], f"{where}.{name}") for name in found}
    try:
        return cls(**values)
    except (TypeError, ItpnError) as error:  # a field is missing, or its value cannot be used
        raise ValueError(f"{where} {error}".strip(" .")) from error
