"""The errors a user can hint: each names the thing, its value, the cause and the hint.

They end a command with one line and an exit code; anything else is a defect, with a traceback.
"""

from __future__ import annotations

import errno
import os


class ItpnError(Exception):
    """A mistake in the input, described in one line.

    Args:
        subject: the field, file or URI at fault.
        value: what was found there; ``None`` where the subject says it all.
        cause: what is wrong with it.
        hint: what the user can do about it.

    Attributes:
        exit_code: of the command that it ends.
    """

    exit_code = 2

    def __init__(self, subject: str, value: object, cause: str, hint: str) -> None:
        # All four reach Exception.args, so that the error survives pickling between Ray processes.
        super().__init__(subject, value, cause, hint)
        self.subject = subject
        self.value = value
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        shown = self.subject if self.value is None else f"{self.subject} = {_shown(self.value)}"
        # Libraries' messages, of which some causes are made, may have several lines.
        return " ".join(f"{shown}: {self.cause}. {self.hint}.".splitlines())


_LONGEST = 400  # characters of a value in a message: room for a path or a URI, not for a file


def told_by(error: BaseException, line: int = 0) -> str:
    """A line of an error's text, its first unless told; the name of its type where it has none."""
    # Libraries raise errors without a text too.
    return (str(error).strip().splitlines() or [type(error).__name__])[line]


def _shown(value: object) -> str:
    """A value as text: a fraction without the digits that only rounding has, no empty brackets.

    Of a long one, such as a file that is no JSON, both ends.
    """
    text = repr(value)
    if isinstance(value, float):
        return min(text, f"{value:.6g}", key=len) if len(text) > 8 else text
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        return f"{text[:half]} ... {text[-half:]}"
    return "none" if value in ([], (), {}) else text


class ConfigError(ItpnError):
    """A configuration field, recipe name or command-line value that cannot be used."""


class DataError(ItpnError):
    """An image, shard, manifest or data folder that cannot be used."""


class CheckpointError(ItpnError):
    """A checkpoint or weight file that cannot be used."""


class RunError(ItpnError):
    """A run that cannot go on, for a reason that repeating it would meet again."""


class TrialsError(RunError):
    """Trials of a sweep that failed, though the sweep came to its end."""

    exit_code = 1


class CapReached(RunError):
    """A run that was saved and ended because its machines have cost what they may."""

    exit_code = 3


_MACHINE = {
    errno.ENOSPC: "Free some space, or choose another place",
    errno.EDQUOT: "Free some space, or choose another place",
    errno.EFBIG: "Raise the limit on file sizes, or choose another place",
    errno.EROFS: "Choose a place that can be written",
    errno.EACCES: "Give yourself the right to it, or choose another place",
    errno.EPERM: "Give yourself the right to it, or choose another place",
    errno.ENAMETOOLONG: "Use a shorter name",
    errno.ENOTDIR: "Name a folder, not a file",
    errno.EMFILE: "Raise the limit on open files: ulimit -n",
    errno.ENFILE: "Close other programs that hold many files open",
}


def of_machine(error: OSError) -> ItpnError | None:
    """What the machine refused, such as a write on a full disk, as an error that a user can fix.

    None where the error may as well be a defect of ours.
    """
    hint = _MACHINE.get(error.errno or 0)
    if hint is None:
        return None
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "disk"
    return ItpnError(place, None, error.strerror or str(error), hint)
