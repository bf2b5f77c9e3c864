"""Ctrl-C and SIGTERM: every verb ends with a word, the signal's exit code, and nothing lost."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time

import pytest

from itpn_ray import cli
from itpn_ray.errors import of_machine
from itpn_ray.interrupt import Interrupted, answering, interrupt, keep_sigterm

pytestmark = pytest.mark.usefixtures("usual_signals")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_verb_that_is_interrupted(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(arguments: list[str], verbose: bool) -> int:
        os.kill(os.getpid(), number)
        time.sleep(60)
        return 0

    monkeypatch.setitem(cli.VERBS, "preview", (wait, "waits"))
    assert cli.run(["preview"]) == code
    assert capsys.readouterr().err == "itpn-ray preview: interrupted; repeat the command to go on\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_answers_are_given_back() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with answering(interrupt, signal.SIGINT, signal.SIGTERM):
        assert signal.getsignal(signal.SIGINT) is interrupt
        assert signal.getsignal(signal.SIGTERM) is interrupt
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def look() -> None:
        with answering(interrupt, signal.SIGINT), keep_sigterm():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_a_library_that_leaves_at_sigterm_only_interrupts() -> None:
    def leave(number: int) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), number)
        time.sleep(60)

    with pytest.raises(Interrupted) as caught, keep_sigterm():
        leave(signal.SIGTERM)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "can be written"),
        (errno.EACCES, "the right to it"),
        (errno.ENAMETOOLONG, "a shorter name"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    number: int, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(arguments: list[str], verbose: bool) -> int:
        raise OSError(number, os.strerror(number), "/data/out")

    monkeypatch.setitem(cli.VERBS, "preview", (write, "writes"))
    assert cli.run(["preview"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"itpn-ray preview: /data/out: {os.strerror(number)}. ")
    assert hint in line
    assert line.count("\n") == 1


def test_other_errors_of_the_system_are_defects() -> None:
    assert of_machine(OSError(errno.EBADF, "bad")) is None
    assert of_machine(OSError("no number")) is None
