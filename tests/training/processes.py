"""Processes for tests of several workers, which start at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch.multiprocessing as mp

from itpn_ray.tasks.registry import BUILT_IN, settings_class


def run_together(function: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Call ``function(rank, *arguments)`` in ``count`` processes and wait for all of them.

    They are forked from a process that has PyTorch and every task imported; one that is started
    anew spends some five seconds of a core on that.

    Raises:
        torch.multiprocessing.ProcessRaisedException: what the first process to fail raised.
    """
    multiprocessing.set_forkserver_preload([__name__, *_modules_of_tasks()])
    mp.start_processes(
        _process, (dict(os.environ), function, arguments), count, start_method="forkserver"
    )


def _modules_of_tasks() -> list[str]:
    return [settings_class(name).implementation.partition(":")[0] for name in BUILT_IN]


def _process(
    rank: int,
    environment: Mapping[str, str],
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    # Else they would be those of the test that was the first to start a process.
    os.environ.clear()
    os.environ.update(environment)
    function(rank, *arguments)
