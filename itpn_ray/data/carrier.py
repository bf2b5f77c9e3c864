"""What carries read instructions to the decoding threads: Ray Data, or this process.

An instruction is the sample ids of one host batch, (B,) int64. Both carriers yield the given
batches in the given order, so training does not depend on which one is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence

import numpy as np

from itpn_ray.data.order import Ids

Carrier = Callable[[Sequence[Ids]], Generator[Ids, None, None]]

_BLOCK_STEPS = 64
_PREFETCH = 8


def thread_carrier(batches: Sequence[Ids]) -> Generator[Ids, None, None]:
    """Hand the instructions over within this process."""
    yield from batches


def ray_carrier(batches: Sequence[Ids]) -> Generator[Ids, None, None]:
    """Send the instructions through a Ray Dataset, which streams and prefetches them in order.

    Only ids pass through the object store; decoded pictures there cost several times the memory
    and CPU time of the decoding itself.
    """
    import ray.data

    # Ray Data reports each execution, here each epoch, as a line of its own.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # from_items makes its blocks in this process. from_arrow sends a task for each, which waits
    # for a free CPU, and for ever where the training workers hold them all.
    items = [{"ids": ids.astype(np.int64).tobytes()} for ids in batches]
    dataset = ray.data.from_items(items, override_num_blocks=max(1, -(-len(items) // _BLOCK_STEPS)))
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    instructions = dataset.iterator().iter_batches(
        batch_size=1, batch_format="pyarrow", prefetch_batches=_PREFETCH
    )
    for instruction in instructions:
        yield np.frombuffer(instruction.column("ids")[0].as_py(), dtype=np.int64)
