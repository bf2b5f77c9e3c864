"""What carries read instructions to the decoding threads: Ray Data, or this process.

An instruction is the sample ids of one host batch, (B,) int64. Both transports yield the given
batches in the given order, so training does not depend on which one is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence

import numpy as np

from itpn_ray.data.loading.order import Ids
from itpn_ray.ray_runtime.tasks import dataset_of

Transport = Callable[[Sequence[Ids]], Generator[Ids, None, None]]

_ITEM_BATCHES = 64
"""Batches of one item: handing over an item takes Ray Data some milliseconds, whatever it holds."""


def thread_transport(batches: Sequence[Ids]) -> Generator[Ids, None, None]:
    """Hand the instructions over within this process."""
    yield from batches


def ray_transport(batches: Sequence[Ids]) -> Generator[Ids, None, None]:
    """Send the instructions through a Ray Dataset, in order, all of them at once.

    Only ids pass through the object store; decoded images there cost several times the memory
    and CPU time of the decoding itself. The dataset is whole as soon as it is made, so its blocks
    are taken as they are: an execution that hands out eight bytes an image, bit by bit, would
    keep two actors and a thread awake beside the decoding for the whole epoch.
    """
    import ray

    items = [
        {
            "ids": np.concatenate(batches[i : i + _ITEM_BATCHES]).astype(np.int64).tobytes(),
            # Where each batch ends within the item, so that it can be cut back into batches.
            "ends": np.cumsum([len(ids) for ids in batches[i : i + _ITEM_BATCHES]]).tolist(),
        }
        for i in range(0, len(batches), _ITEM_BATCHES)
    ]
    # It warns that no CPU is free for an execution: training workers hold them all.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for table in ray.get(dataset_of(items, ordered=True).to_arrow_refs()):
        for row in table.to_pylist():
            ids = np.frombuffer(row["ids"], dtype=np.int64)
            # The last end is that of the whole: a cut there would give an empty batch.
            yield from np.split(ids, row["ends"][:-1])
