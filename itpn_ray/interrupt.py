"""Ctrl-C and SIGTERM: a command that is asked to end ends soon, and can be repeated to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Answer = Callable[[int, FrameType | None], object]
"""What a signal calls, in the main thread."""


class Interrupted(KeyboardInterrupt):
    """The command was asked to end.

    Attributes:
        exit_code: 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def interrupt(number: int, frame: FrameType | None) -> None:
    """Answer a signal by ending what the main thread does.

    Raises:
        Interrupted: always.
    """
    del frame
    raise Interrupted(number)


@contextmanager
def answering(answer: Answer, *numbers: signal.Signals) -> Iterator[None]:
    """Let ``answer`` be called by signals for the length of a ``with`` block.

    Signals belong to the main thread: in another one nothing changes. Ctrl-C is answered also where
    a script's shell had a job in the background ignore it: it can be gone on with.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, answer)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, former[number] or signal.SIG_DFL)


@contextmanager
def keep_sigterm() -> Iterator[None]:
    """Undo what a library inside the ``with`` block makes of SIGTERM.

    Raises:
        Interrupted: SIGTERM came, and the library's own answer was to leave the process.
    """
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as leaving:
        raise Interrupted(signal.SIGTERM) from leaving
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former or signal.SIG_DFL)
