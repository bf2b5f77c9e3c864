"""Runs by a group of processes without Ray, as torchrun starts them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import nn

from itpn_ray.experiment import ExperimentConfig
from itpn_ray.runs.journal import FileJournal
from itpn_ray.tasks.base import Task
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask
from itpn_ray.training import loop
from itpn_ray.training.claim import run_folder
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.preemption import PreemptionNotice
from itpn_ray.training.launch.process import work
from tests.s3 import free_port
from tests.training.processes import run_together

Prepare = Callable[[int], None]


def train_in_group(config: ExperimentConfig, world: int, before: Prepare | None = None) -> None:
    """Train with ``world`` processes; each calls ``before`` with its rank first.

    Raises:
        torch.multiprocessing.ProcessRaisedException: what the first process to fail raised.
    """
    train_each_in_group([config], world, before)


def train_each_in_group(
    configs: Sequence[ExperimentConfig], world: int, before: Prepare | None = None
) -> None:
    """As `train_in_group`, for several runs one after another in the same processes."""
    for config in configs:
        FileJournal(run_folder(config))
    run_together(_process, (world, free_port(), configs, before), world)


def _process(
    rank: int,
    world: int,
    port: int,
    configs: Sequence[ExperimentConfig],
    before: Prepare | None,
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if before is not None:
        before(rank)
    for config in configs:
        worker = TrainContext.in_group(config)
        with contextlib.suppress(SystemExit):  # how a run leaves a machine that is taken away
            work(config, worker, FileJournal(run_folder(config)), lambda figures: None)


def leave_after(steps: int, rank: int) -> None:
    """Let this process be told, in its step number ``steps``, that its machine goes."""
    del rank
    asked = itertools.count(1)
    PreemptionNotice.__call__ = lambda notice: next(asked) >= steps  # type: ignore[method-assign]


def expect_half(rank: int) -> None:
    """Let this process fail unless it holds about half of every network that it trains."""
    del rank
    make = loop.make_optimizer

    def checked(network: nn.Module, *rest: Any) -> Any:
        held = sum(cast(Any, p).to_local().numel() for p in network.parameters())
        whole = sum(p.numel() for p in network.parameters())
        assert held < 0.6 * whole, f"{held} of {whole}"
        return make(network, *rest)

    loop.make_optimizer = checked  # type: ignore[assignment]


def poison(step: int, sick: int, rank: int, kind: type[Task] = PixelPretrainingTask) -> None:
    """Let the last image of one step of rank ``sick`` be no numbers."""
    if rank != sick:
        return
    prepare, calls = kind.prepare, itertools.count(1)

    def poisoned(task: Task, batch: Batch, epoch: int) -> Batch:
        ready = prepare(task, batch, epoch)
        if next(calls) == step:
            ready["image"] = ready["image"].clone()
            ready["image"][-1] = float("nan")
        return ready

    kind.prepare = poisoned  # type: ignore[method-assign]


def hang(step: int, sick: int, rank: int) -> None:
    """Let rank ``sick`` fall asleep in its step number ``step``."""
    if rank != sick:
        return
    prepare, calls = PixelPretrainingTask.prepare, itertools.count(1)

    def hanging(task: PixelPretrainingTask, batch: Batch, epoch: int) -> Batch:
        if next(calls) == step:
            # Whoever waits for its end would otherwise give it half a minute to save.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(3600)
        return prepare(task, batch, epoch)

    PixelPretrainingTask.prepare = hanging  # type: ignore[method-assign]


def leave_after_half(steps: int, rank: int) -> None:
    """`expect_half` and `leave_after` together."""
    expect_half(rank)
    leave_after(steps, rank)
