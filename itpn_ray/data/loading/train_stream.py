"""A rank's shares of a run's global batches, decoded ahead across the ends of epochs.

Every loader of training stands on this. The next epoch's first batches are decoded while the last
steps of this one, its evaluation and its save run: a queue that is emptied at an epoch's end would
have the device wait for as long as a batch takes to decode, once an epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator

from itpn_ray.data.loading.decoding_pool import HostBatch
from itpn_ray.data.loading.image_reader import ImageReader, Passage
from itpn_ray.data.loading.order import Ids, TrainOrder, share


class TrainStream(ABC):
    """The base of the loaders of training.

    Args:
        reader: reads the training split.
        order: which images each global batch has.
        rank: this worker.
        world: workers.

    Raises:
        ConfigError: a rank would get no sample.
    """

    def __init__(self, reader: ImageReader, order: TrainOrder, rank: int, world: int) -> None:
        self._reader = reader
        self._order = order
        self._share = slice(*share(order.global_batch, rank, world))

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        return self._order.steps_per_epoch

    def batches(self, first: int, last: int) -> Generator[HostBatch, None, None]:
        """Yield the batches of steps ``first`` to ``last - 1`` of a run, and read no others.

        Raises:
            DataError: an image cannot be used; it carries the image's path.
        """
        yield from self._reader.stream(self._passages(first, last), self._largest)

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[HostBatch, None, None]:
        """`batches` of one epoch, from ``first_step`` of it on."""
        begin = epoch * self.steps_per_epoch
        yield from self.batches(begin + first_step, begin + self.steps_per_epoch)

    @property
    def _largest(self) -> int:
        return self._share.stop - self._share.start

    def _passages(self, first: int, last: int) -> Iterator[Passage]:
        """The steps epoch by epoch; each is drawn once the one before it has begun."""
        per_epoch = self.steps_per_epoch
        # The last epoch counts too where `last` ends inside it: rounded up.
        for epoch in range(first // per_epoch, -(-last // per_epoch)):
            # Only the first epoch may begin in its middle.
            begin = max(0, first - epoch * per_epoch)
            # A stop beyond the epoch's end is cut off by the slice.
            ids = self._order.epoch(epoch)[begin : last - epoch * per_epoch, self._share]
            # Only remote shards are worth another permutation to know what comes after the epoch.
            remote = self._reader.remote is not None
            upcoming = list(self._order.epoch(epoch + 1)[:1, self._share]) if remote else []
            yield self._passage(epoch, list(ids), upcoming)

    @abstractmethod
    def _passage(self, epoch: int, ids: list[Ids], upcoming: list[Ids]) -> Passage:
        """How batches of an epoch are filled.

        Args:
            epoch: the epoch.
            ids: sample ids of each batch.
            upcoming: of the next epoch's first batch, where shards are remote.
        """

    def close(self) -> None:
        """Stop the threads; the loader is not used again."""
        self._reader.close()
