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
from itpn_ray.data.ray_tasks import dataset_of, rows_of

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
    items = [
        {
            "ids": np.concatenate(batches[i : i + _ITEM_BATCHES]).astype(np.int64).tobytes(),
            "ends": np.cumsum([len(ids) for ids in batches[i : i + _ITEM_BATCHES]]).tolist(),
        }
        for i in range(0, len(batches), _ITEM_BATCHES)
    ]
    dataset = dataset_of(items, ordered=True)
    # Ray Data reports each execution, here each epoch, as a line of its own.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    with closing(rows_of(dataset)) as rows:
        for row in rows:
            ids = np.frombuffer(row["ids"], dtype=np.int64)
            yield from np.split(ids, row["ends"][:-1])
