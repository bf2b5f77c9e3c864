"""Follows calls through the package: which of its files are entered, in which order, how often."""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import itpn_ray

PACKAGE = f"{Path(itpn_ray.__file__).parent}/"
PAGE = Path(__file__).resolve().parent.parent / "docs/explanation/architecture.md"


class Walk:
    """Calls from one file of the package into another, of the thread that is followed.

    Args:
        counts: which calls count; all by default.

    Attributes:
        entered: file -> how often it was entered, in the order of the first time.
    """

    def __init__(self, counts: Callable[[FrameType], bool] = lambda frame: True) -> None:
        self.entered: Counter[str] = Counter()
        self._counts = counts

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Take an event of `sys.setprofile`."""
        del argument
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(PACKAGE):
            return
        # A generator that goes on is called by whoever asks it for more: it is entered again.
        if _caller(frame) != file and self._counts(frame):
            self.entered[file.removeprefix(PACKAGE)] += 1


def _caller(frame: FrameType) -> str | None:
    """The file of the package from which a call came, over calls of libraries."""
    above = frame.f_back
    while above is not None and not above.f_code.co_filename.startswith(PACKAGE):
        above = above.f_back
    return None if above is None else above.f_code.co_filename


@contextmanager
def following(walk: Walk) -> Iterator[None]:
    """Follow the calls of this thread."""
    former = sys.getprofile()
    sys.setprofile(walk)
    try:
        yield
    finally:
        sys.setprofile(former)


@contextmanager
def following_new_threads(walk: Walk) -> Iterator[None]:
    """Follow the calls of threads that start meanwhile."""
    former = threading.getprofile()
    threading.setprofile(walk)
    try:
        yield
    finally:
        threading.setprofile(former)


def written(heading: str) -> list[tuple[str, str]]:
    """A walk as the page has it: (file, what is said of entering it again, or "")."""
    _, _, section = PAGE.read_text().partition(f"### {heading}\n")
    section = re.split(r"^#{2,3} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    steps = re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]
    found = [re.match(r"`([^`]+\.py)`", step) for step in steps]
    return [
        (match[1], step.partition("Again:")[2].strip())
        for match, step in zip(found, steps, strict=True)
        if match
    ]


def checked(walk: Walk, heading: str) -> None:
    """Assert that a walk is the page's, and that the page says why a file is entered again."""
    steps = written(heading)
    assert list(walk.entered) == [file for file, _ in steps]
    again = {file for file, count in walk.entered.items() if count > 1}
    assert again == {file for file, reason in steps if reason}
