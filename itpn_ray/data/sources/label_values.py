"""Labels as data sets write them -> class numbers, class names, or nothing."""

from __future__ import annotations

from itpn_ray.errors import DataError

Label = str | int
"""A class number, or a class name."""
_LARGEST = 2**63


def text_label(data: bytes, where: str, hint: str) -> Label | None:
    """The label in a text file or cell; None where it is blank.

    Args:
        data: UTF-8 text.
        where: names it in the error.
        hint: what to do about a wrong one.

    Raises:
        DataError: it is no text.
    """
    try:
        return as_label(data.decode("utf-8-sig"), where, hint)
    except UnicodeDecodeError as error:
        raise DataError(where, data, "is no text, so no label", hint) from error


def as_labels(value: object, where: str, hint: str) -> Label | list[Label] | None:
    """A label as `as_label` reads it, or of a list those of its values that are labels.

    Raises:
        DataError: see `as_label`.
    """
    if not isinstance(value, list | tuple):
        return as_label(value, where, hint)
    found = [as_label(one, where, hint) for one in value]
    return [label for label in found if label is not None]


def as_label(value: object, where: str, hint: str) -> Label | None:
    """A label from a value of whatever type; None where there is none (None, NaN, blank text).

    Truth values are the class names "false" and "true"; whole floats are class numbers.

    Args:
        value: as it was found.
        where: names it in the error.
        hint: what to do about a wrong one.

    Raises:
        DataError: it is neither a class number nor a class name.
    """
    if value is None or value != value:  # NaN is how pandas writes a missing number
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = value.strip()
        # The length first: Python refuses to convert texts of thousands of digits.
        if text.isdecimal() and (len(text) > len(str(_LARGEST)) or int(text) >= _LARGEST):
            raise DataError(where, text, "is too large for a class number", hint)
        return text or None
    # Infinity fails the second test; `int` of it would raise.
    if isinstance(value, int | float) and abs(value) < _LARGEST and value == int(value):
        return int(value)
    raise DataError(where, value, "is neither a class number nor a class name", hint)
