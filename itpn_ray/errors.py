"""The errors a user can hint: each names the thing, its value, the cause and the hint.

They end a command with exit code 2 and one line; anything else is a defect and keeps its traceback.
"""

from __future__ import annotations


class ItpnError(Exception):
    """A mistake in the input, told in one line.

    Args:
        subject: the field, file or URI at fault.
        value: what was found there; ``None`` where the subject says it all.
        cause: what is wrong with it.
        hint: what the user can do about it.
    """

    def __init__(self, subject: str, value: object, cause: str, hint: str) -> None:
        # All four reach Exception.args, so that the error survives pickling between Ray processes.
        super().__init__(subject, value, cause, hint)
        self.subject = subject
        self.value = value
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        shown = self.subject if self.value is None else f"{self.subject} = {self.value!r}"
        # Libraries' messages, of which some causes are made, may have several lines.
        return " ".join(f"{shown}: {self.cause}. {self.hint}.".splitlines())


class ConfigError(ItpnError):
    """A configuration field, recipe name or command-line value that cannot be used."""


class DataError(ItpnError):
    """An image, shard, manifest or data folder that cannot be used."""


class CheckpointError(ItpnError):
    """A checkpoint or weight file that cannot be used."""


class RunError(ItpnError):
    """A run that cannot go on, for a reason that repeating it would meet again."""
