"""From the words of a command line to settings: switches, recipes, options."""

from __future__ import annotations

import dataclasses
import typing
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from itpn_ray.errors import ConfigError
from itpn_ray.renamed import options_today

T = TypeVar("T")

WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), "True"),
    **dict.fromkeys(("false", "no", "off", "0"), "False"),
}
"""How the value of a switch may be written, in any case -> how the parser has it."""


class _Parsed(Exception):
    """A verb has its settings; it is to go no further."""


_ONLY_CHECKED: ContextVar[bool] = ContextVar("only_checked", default=False)


def check(verb: Callable[[list[str], bool], int], words: Sequence[str]) -> None:
    """Have a verb parse its words and run nothing.

    Args:
        verb: a function of `itpn_ray.cli.VERBS`.
        words: as they would stand after its name.

    Raises:
        ConfigError: an option is unknown, or a value cannot be used.
        SystemExit: a value has another type.
    """
    token = _ONLY_CHECKED.set(True)
    try:
        verb(list(words), False)
    except _Parsed:
        return
    finally:
        _ONLY_CHECKED.reset(token)


def parse(cls: Callable[..., T], arguments: list[str], prog: str, default: T | None = None) -> T:
    """Parse options into a settings class; a mistyped one names the nearest right one.

    Raises:
        SystemExit: 0 after --help, 2 after a mistake.
    """
    import tyro

    names = {n for n, kind in options(cls, default) if bool in (kind, *typing.get_args(kind))}
    given: dict[str, Any] = {} if default is None else {"default": default}
    words = spell_switches(options_today(arguments), names)
    if _ONLY_CHECKED.get():
        _check_names(words, {name for name, _ in options(cls, default)})
    parsed = tyro.cli(
        cls,
        prog=f"itpn-ray {prog}",
        args=words,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        **given,
    )
    if _ONLY_CHECKED.get():
        raise _Parsed
    return parsed


def _check_names(words: Sequence[str], known: Collection[str]) -> None:
    """Refuse an option that is unknown, in one line; tyro's own answer is a page.

    Raises:
        ConfigError: names the nearest right one.
    """
    from difflib import get_close_matches

    for word in words:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("_", "-")
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"Did you mean {close[0]!r}" if close else "--help lists the options"
                raise ConfigError("option", name, "is not known", hint)


def options(cls: Any, default: object = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name, as it stands behind ``--``, and type of each option of a settings class.

    Args:
        cls: the settings class.
        default: an instance of it, which tells what a field of several classes holds.
        prefix: what stands before its names.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint, *notes = _unwrapped(hints[field.name])
        value = getattr(default, field.name, None)
        name = prefix + field.name.replace("_", "-")
        kind = hint if value is None else type(value)
        if dataclasses.is_dataclass(kind):
            unnamed = any(getattr(note, "name", None) == "" for note in notes)
            yield from options(kind, value, "" if unnamed else f"{name}.")
        else:
            yield name, hint


def spell_switches(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Command-line words with each switch spelled out: ``--gpus`` as ``--gpus True``.

    Understood are ``--gpus``, ``--no-gpus``, ``--task.no-masks``, ``--no-task.masks``,
    ``--gpus yes`` and ``--gpus=0``, for all of `WORDS`. What is none of these stays as it is.

    Args:
        arguments: the words.
        names: of the switches, as they stand behind ``--``.
    """
    spelled: list[str] = []
    waiting = deque(arguments)
    while waiting:
        word = waiting.popleft()
        option, equals, value = word.partition("=")
        name, says = _switch(option, names)
        if not name or (equals and not says):
            spelled.append(word)
        elif equals:
            spelled += [name, WORDS.get(value.lower(), value)]
        elif says and waiting and waiting[0].lower() in WORDS:
            spelled += [name, WORDS[waiting.popleft().lower()]]
        else:
            spelled += [name, str(says)]
    return spelled


def split_recipe(arguments: list[str], verb: str, recipes: Any) -> tuple[str, list[str]]:
    """The recipe's name and the rest.

    Raises:
        ConfigError: no recipe is named.
        SystemExit: after --help.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if asks_for_help(arguments):
        print(f"usage: itpn-ray {verb} RECIPE [OPTIONS]\n\nrecipes:")
        width = max(map(len, recipes))
        for name, recipe in recipes.items():
            print(f"  {name:{width}}  {(recipe.__doc__ or '').splitlines()[0]}")
        print(f"\nitpn-ray {verb} RECIPE --help lists the options.")
        raise SystemExit(0)
    raise ConfigError("recipe", None, "is missing", f"Known: {', '.join(recipes)}")


def split_place(arguments: list[str]) -> tuple[str, list[str]]:
    """The data set that a verb looks at, and the rest; all of it where that asks for help.

    Raises:
        ConfigError: none is named.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if asks_for_help(arguments):
        return "", arguments
    raise ConfigError("data", None, "is missing", "Write `itpn-ray preview DATA`")


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the words ask what there is to be said."""
    return "-h" in arguments or "--help" in arguments


def _switch(option: str, names: Collection[str]) -> tuple[str, bool]:
    """The option that a word means, and what it says alone; "" where it is no switch."""
    if not option.startswith("--"):
        return "", False
    plain = option[2:].replace("_", "-")
    group, dot, last = plain.rpartition(".")
    if plain in names:
        return option, True
    for positive in (plain.removeprefix("no-"), group + dot + last.removeprefix("no-")):
        if positive in names:
            return f"--{positive}", False
    return "", False


def _unwrapped(hint: Any) -> tuple[Any, ...]:
    """A type, and what it is annotated with."""
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
