"""What carries read instructions to the decoding threads: Ray Data, or this process.

An instruction is the sample ids of one host batch, (B,) int64. Both carriers yield the given
batches in the given order, so training does not depend on which one is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence

import numpy as np
import pyarrow as pa

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
    offsets = np.cumsum([0, *(len(ids) for ids in batches)])
    values = np.concatenate([*batches, np.empty(0, np.int64)])
    table = pa.table({"ids": pa.LargeListArray.from_arrays(offsets, values)})
    blocks = [table.slice(i, _BLOCK_STEPS) for i in range(0, len(batches), _BLOCK_STEPS)]
    dataset = ray.data.from_arrow(blocks)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    instructions = dataset.iterator().iter_batches(
        batch_size=1, batch_format="pyarrow", prefetch_batches=_PREFETCH
    )
    for instruction in instructions:
        yield instruction.column("ids").combine_chunks().values.to_numpy()
