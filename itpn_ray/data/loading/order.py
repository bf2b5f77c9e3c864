"""Which samples a worker reads at each step: a pure function of (seed, epoch, step, rank, world).

Sample ids are row numbers of the split. With repeated augmentation a row has one id for each
repeat, ``row + repeat * count``, so that its copies draw different crops, masks and mixes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from itpn_ray.errors import ConfigError
from itpn_ray.formatting import number_of
from itpn_ray.rng import Stream, permutation

Ids = npt.NDArray[np.int64]


def share(global_batch: int, rank: int, world: int) -> tuple[int, int]:
    """Positions [start, stop) of a global batch that belong to one rank.

    Shares are contiguous and start at even positions, so that the mixing partners (2i, 2i + 1)
    stay together; their sizes differ by at most two, plus the odd last sample of an odd batch.

    Raises:
        ConfigError: a rank would get no sample.
    """
    pairs = global_batch // 2
    if pairs < world and world > 1:
        raise ConfigError(
            "optim.global_batch",
            global_batch,
            f"leaves a worker without a pair of samples ({number_of(world, 'worker')})",
            f"Use at least {2 * world}",
        )
    # Cut between pairs; an odd last image goes to the last rank.
    stop = global_batch if rank == world - 1 else 2 * ((rank + 1) * pairs // world)
    return 2 * (rank * pairs // world), stop


@dataclass(frozen=True, kw_only=True)
class TrainOrder:
    """The order of training: the same global batches for any number of workers.

    Attributes:
        starts: (shards + 1,) first row of each shard, and the number of rows.
        global_batch: samples a step over all workers.
        seed: the run's seed.
        repeats: times a sample appears in one global batch (repeated augmentation); an epoch keeps
            its number of steps and so sees ``1/repeats`` of the split.
        window: shards that are shuffled together; 0: all. Windows follow each other, so that a
            reader of remote shards needs no more than two of them at a time.

    Raises:
        ConfigError: the split holds less than one global batch.
    """

    starts: Ids
    global_batch: int
    seed: int
    repeats: int = 1
    window: int = 0

    def __post_init__(self) -> None:
        if self.count < self.global_batch:
            raise ConfigError(
                "optim.global_batch",
                self.global_batch,
                f"the training split holds {number_of(self.count, 'image')}, so an epoch would "
                "have 0 steps",
                # Even, so that no sample is left without its mixing partner.
                f"Use at most {self.count - self.count % 2}",
            )

    @property
    def count(self) -> int:
        """Rows of the split."""
        return int(self.starts[-1])

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch; what is left over is dropped."""
        return self.count // self.global_batch

    def epoch(self, epoch: int) -> Ids:
        """Sample ids of one epoch, (steps_per_epoch, global_batch) int64."""
        rows = self._rows(epoch)
        steps, size = self.steps_per_epoch, self.global_batch
        if self.repeats == 1:
            # Reshaped without the rest: an epoch is whole batches only.
            return rows[: steps * size].reshape(steps, size)
        positions = np.arange(steps * size)
        repeat = positions % self.repeats
        # Copies of a row lie side by side, so they share a global batch, but for those at its ends.
        ids = rows[positions // self.repeats] + repeat * self.count
        # Within a batch the copies come apart, so that no image is mixed with its own copy.
        apart = np.argsort(repeat.reshape(steps, size), axis=1, kind="stable")
        return np.take_along_axis(ids.reshape(steps, size), apart, axis=1)

    def _rows(self, epoch: int) -> Ids:
        """All rows in the order of an epoch, (count,)."""
        rows = permutation(self.seed, epoch, self.count)
        if self.window == 0:
            return rows
        shards = len(self.starts) - 1
        turn = np.empty(shards, np.int64)  # a shard's place in this epoch's order of shards
        turn[permutation(self.seed, epoch, shards, Stream.SHARDS)] = np.arange(shards)
        # The shard of each row: the last one that starts at or before it.
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        # Stable, so that inside a window rows keep the random order of the epoch.
        return rows[np.argsort(turn[shard] // self.window, kind="stable")]


def evaluation_rows(count: int, rank: int, world: int) -> Ids:
    """Rows that one rank evaluates: contiguous, no row twice, none left out.

    Where there are fewer rows than ranks, some have none; rank 0, which draws, has the first.
    """
    # Rounded up, so that rank 0 has an image wherever there is one.
    start, stop = (-(-number * count // world) for number in (rank, rank + 1))
    return np.arange(start, stop, dtype=np.int64)
