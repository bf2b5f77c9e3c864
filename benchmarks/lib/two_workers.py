"""What a second process adds: two run, and every other turn one of them is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress

import psutil

TURNS = 5


def take_turns(children: list[subprocess.Popen[str]], seconds: float) -> list[float]:
    """What two processes read over what one does while the other is stopped, for each two turns.

    Ends the children. Images are read in the same way in both kinds of turn, so that bytes count
    them, and more exactly than finished shards do.
    """
    found: list[float] = []
    try:
        while len(at_work(children)) < 2 or not read_rate(children, 1):
            if any(child.poll() is not None for child in children):
                break
        while len(found) < TURNS:
            both = read_rate(children, seconds)
            working = at_work(children)
            if len(working) < 2:
                break
            stopped = working[len(found) % 2]
            stopped.suspend()
            try:
                one = read_rate(children, seconds)
            finally:
                stopped.resume()
            if len(at_work(children)) < 2:
                break
            found.append(both / one)
    finally:
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if not found:
        raise SystemExit(f"{children[0].args} failed, or ended before it was measured")
    return found


def read_rate(children: list[subprocess.Popen[str]], seconds: float) -> float:
    """Bytes a second that Ray's workers, or processes at the limit, read from files."""
    begin, before = time.perf_counter(), bytes_read(children)
    time.sleep(seconds)
    after = bytes_read(children)
    total = sum(count - before.get(process, 0) for process, count in after.items())
    return total / (time.perf_counter() - begin)


def bytes_read(children: list[subprocess.Popen[str]]) -> dict[psutil.Process, int]:
    found = {}
    for process in makers(children):
        with suppress(psutil.NoSuchProcess):
            found[process] = process.io_counters().read_chars
    return found


def at_work(children: list[subprocess.Popen[str]]) -> list[psutil.Process]:
    """The processes that make images just now, in the order of their numbers."""
    return [process for process in makers(children) if "IDLE" not in name_of(process)]


def makers(children: list[subprocess.Popen[str]]) -> list[psutil.Process]:
    """Ray's workers for tasks, at work or idle, or the processes at the limit themselves."""
    parents = [psutil.Process(child.pid) for child in children if child.poll() is None]
    below = [process for parent in parents for process in parent.children(recursive=True)]
    workers = [p for p in below if name_of(p).startswith(("ray::MapBatches", "ray::IDLE"))]
    return sorted([*workers, *(p for p in parents if " limit " in name_of(p))], key=lambda p: p.pid)


def name_of(process: psutil.Process) -> str:
    """A process's command line; empty if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
