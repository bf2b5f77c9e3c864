"""Threads that fill host batches, a bounded number ahead of their use."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from itpn_ray.allocator import keep_pages

HostBatch = dict[str, Tensor]
_CHUNK = 32  # images of one task: small enough to spread a batch, large enough to vectorise

Fill = Callable[[HostBatch, int, int], None]
"""Fills positions [start, stop) of a batch."""


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A batch that threads are filling; ``finish`` makes the whole of what they found."""

    batch: HostBatch
    tasks: list[Future[None]]
    finish: Callable[[HostBatch], HostBatch] | None = None

    def result(self) -> HostBatch:
        """Wait until the batch is full; raises what a thread raised."""
        # In order: the first fault of the batch is raised,
        # not that of whichever thread was fastest.
        for task in self.tasks:
            task.result()
        return self.batch if self.finish is None else self.finish(self.batch)

    def cancel(self) -> None:
        """Take back the tasks that have not begun."""
        for task in self.tasks:
            task.cancel()


class DecodePool:
    """Decoding threads; each uses one core, whatever torch's thread count elsewhere is."""

    def __init__(self, threads: int) -> None:
        keep_pages()
        # The threads and this one: the count is put back once each of them has its own.
        started = threading.Barrier(threads + 1)

        def begin() -> None:
            # A thread takes the process's count when it is first asked for, and keeps what is set
            # after that; otherwise the first resize would bring a helper thread for each decoder.
            torch.get_num_threads()
            torch.set_num_threads(1)
            started.wait()

        # The process's count, put back below: setting a thread's count overwrites it.
        compute_threads = torch.get_num_threads()
        self._executor = ThreadPoolExecutor(threads, "decode", initializer=begin)
        for _ in range(threads):
            self._executor.submit(int)  # starts a thread, since none can be idle yet
        started.wait()
        torch.set_num_threads(compute_threads)

    def start(self, batch: HostBatch, fill: Fill, chunk: int = _CHUNK) -> Pending:
        """Begin to fill a batch, ``chunk`` images a task."""
        size = len(batch["sample_id"])
        tasks = [
            self._executor.submit(fill, batch, start, min(start + chunk, size))
            for start in range(0, size, chunk)
        ]
        return Pending(batch=batch, tasks=tasks)

    def close(self) -> None:
        """Stop the threads; batches not begun are dropped."""
        # Waited for: a thread must not read a map that is closed after this.
        self._executor.shutdown(wait=True, cancel_futures=True)


def run_ahead(begun: Generator[Pending, None, None], ahead: int) -> Iterator[HostBatch]:
    """Yield finished batches in order while the next ``ahead`` are being filled.

    Args:
        begun: starts to fill a batch each time that it is asked.
        ahead: batches.
    """
    pending: deque[Pending] = deque()
    with closing(begun):
        try:
            for one in begun:
                pending.append(one)
                # One more than `ahead`: the oldest is handed out while so many are being filled.
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        # Reached on errors and when the caller stops early, too.
        finally:
            for batch in pending:
                batch.cancel()
