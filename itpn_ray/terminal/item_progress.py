"""Progress of work that counts images: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from itpn_ray.formatting import show_duration
from itpn_ray.terminal.console import Console

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""

Count = Callable[[int, int], None]
"""Takes what is done and what there is in all."""


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Count]:
    """Show how far a count is, and how long the rest will take."""
    begin = time.monotonic()
    if not console.is_live:
        yield _lines(console, title, begin)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(console: Console, title: str, begin: float) -> Count:
    printed = begin

    def count(done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if done and now - printed >= LINE_EVERY:
            printed = now
            rest = (now - begin) / done * (total - done)
            console.say(f"{title}: {done:,} of {total:,}, ETA {show_duration(rest)}")

    return count
