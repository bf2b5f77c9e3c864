"""What a run costs and how it goes: sums between two records of the journal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from itpn_ray.runs.journal import Journal
from itpn_ray.training.launch.context import TrainContext

STATUS_EVERY = 1.0
"""Seconds between two status records of a worker."""
PAUSES = ("evaluating", "saving")
"""Phases in which nothing is trained: their seconds slow no rate down."""


class Meter:
    """Sums loss terms and seconds by phase; rank 0 writes them, every rank tells its status.

    Args:
        worker: this process.
        journal: where records go.
        steps: steps of the whole run.
        peak_rate: images a second that would keep this worker's device fully busy, for the share
            of it that is used (``mfu``); 0: unknown.
    """

    def __init__(
        self,
        worker: TrainContext,
        journal: Journal,
        *,
        steps: int,
        peak_rate: float,
    ) -> None:
        self.worker = worker
        self.journal = journal
        self.steps = steps
        self.peak_rate = peak_rate
        self.phase = "starting"
        self._told = 0.0
        self._last: dict[str, float] = {}
        self._reset()

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Count the seconds inside as spent in ``phase``."""
        self.phase = phase
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            self._seconds[phase] = self._seconds.get(phase, 0.0) + spent

    def add(self, terms: dict[str, Tensor], share: float) -> None:
        """Add the loss terms of a micro-batch that is ``share`` of the global batch."""
        for name, value in terms.items():
            # Left on the device: reading it would wait for the step.
            value = value.detach().double() * share
            self._terms[name] = self._terms[name] + value if name in self._terms else value

    def step(self, images: int, work: float = 1.0) -> None:
        """One optimiser step has ended.

        Args:
            images: over all workers.
            work: of an image, over that of one of full size.
        """
        self._count += 1
        self._images += images
        self._work += images * work

    def record(self, step: int, epoch: float, *, rate: float, grad_norm: float) -> None:
        """Write the means since the last record; called by all ranks together.

        Rates are those of the training itself, without what `PAUSES` took in between.
        """
        names = sorted(self._terms)
        if not names:
            return
        # One collective for all terms: each costs a round trip.
        sums = self.worker.reduce(torch.stack([self._terms[name] for name in names]))
        # Evaluating and saving are no part of training's speed.
        paused = sum(self._seconds.get(phase, 0.0) for phase in PAUSES)
        elapsed = time.perf_counter() - self._begin - paused
        # In each step the shares of all micro-batches and workers add up to 1.
        values = dict(zip(names, (sums / self._count).tolist(), strict=True))
        values |= {
            "lr": rate,
            "grad_norm": grad_norm,
            "images_per_s": self._images / elapsed,
            "steps_per_s": self._count / elapsed,
        }
        values |= {f"{phase}_s": s / self._count for phase, s in sorted(self._seconds.items())}
        if self.peak_rate:
            # Images are those of all workers, the peak is that of one.
            values["mfu"] = self._work / elapsed / self.worker.world / self.peak_rate
        if self.worker.device.type == "cuda":
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        if self.worker.is_main:
            self.journal.metrics("train", step, epoch, values)
        self._last = {key: values[key] for key in ("loss", "images_per_s")}
        self._reset()

    def tell(self, step: int, epoch: float, *, now: bool = False) -> None:
        """Write this worker's status, at most once a second unless ``now``."""
        if now or time.monotonic() - self._told > STATUS_EVERY:
            self._told = time.monotonic()
            self.journal.status(
                self.worker.rank,
                phase=self.phase,
                step=step,
                steps=self.steps,
                epoch=round(epoch, 3),
                **self._last,
            )

    def _reset(self) -> None:
        self._terms: dict[str, Tensor] = {}
        self._seconds: dict[str, float] = {}
        self._count = 0
        self._images = 0
        self._work = 0.0
        self._begin = time.perf_counter()
