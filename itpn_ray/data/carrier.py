"""What carries read instructions to the decoding threads: Ray Data, or this process.

An instruction is the sample ids of one host batch, (B,) int64. Both carriers yield the given
batches in the given order, so training does not depend on which one is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np

from itpn_ray.data.order import Ids
from itpn_ray.data.ray_tasks import blocks_of

Carrier = Callable[[Sequence[Ids]], Generator[Ids, None, None]]

_ITEM_BATCHES = 64
"""Batches of one item: handing over an item takes Ray Data some milliseconds, whatever it holds."""


def thread_carrier(batches: Sequence[Ids]) -> Generator[Ids, None, None]:
    """Hand the instructions over within this process."""
    yield from batches


def ray_carrier(batches: Sequence[Ids]) -> Generator[Ids, None, None]:
    """Send the instructions through a Ray Dataset, which streams them in order.

    Only ids pass through the object store; decoded pictures there cost several times the memory
    and CPU time of the decoding itself.
    """
    import ray.data

    # Ray Data reports each execution, here each epoch, as a line of its own.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # from_items makes its blocks in this process. from_arrow sends a task for each, which waits
    # for a free CPU, and for ever where the training workers hold them all.
    items = [
        {
            "ids": np.concatenate(batches[i : i + _ITEM_BATCHES]).astype(np.int64).tobytes(),
            "ends": np.cumsum([len(ids) for ids in batches[i : i + _ITEM_BATCHES]]).tolist(),
        }
        for i in range(0, len(batches), _ITEM_BATCHES)
    ]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    with closing(blocks_of(dataset)) as blocks:
        for item in (item for block in blocks for item in block.to_pylist()):
            ids = np.frombuffer(item["ids"], dtype=np.int64)
            yield from np.split(ids, item["ends"][:-1])
