"""Shards -> host batches of images of any size with their annotations: what such loaders share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Generic, TypeVar

from itpn_ray.data.config import Augmentation, LoaderConfig
from itpn_ray.data.loading.decoding_pool import DecodePool, HostBatch, Pending
from itpn_ray.data.loading.image_reader import ImageReader, Passage
from itpn_ray.data.loading.order import Ids, TrainOrder, evaluation_rows
from itpn_ray.data.loading.train_stream import TrainStream
from itpn_ray.data.store.shards import ShardedDataset

A = TypeVar("A", bound=Augmentation)
R = TypeVar("R", bound=ImageReader)


class DenseTrainLoader(TrainStream, Generic[R, A]):
    """One rank's shares of the global batches, in views that differ from epoch to epoch.

    The order and the shares are those of `itpn_ray.data.loading.crop_loader.TrainLoader`.

    Args:
        dataset: the training split.
        config: transport, threads, prefetch.
        augment: sizes, crops and flips of the views.
        seed: the run's seed.
        global_batch: images a step over all ranks.
        rank: this worker.
        world: workers.
        pin: put batches into pinned memory, for asynchronous copies to a GPU.

    Attributes:
        reader: the class that reads the split, and refuses one of another kind.

    Raises:
        ConfigError: the split holds less than one global batch, or a rank would get no sample.
        DataError: the data set is of another kind.
    """

    reader: type[R]
    _reader: R

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        augment: A,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        order = TrainOrder(
            starts=dataset.starts, global_batch=global_batch, seed=seed, window=config.window
        )
        super().__init__(self.reader(dataset, config), order, rank, world)
        self._augment = augment
        self._seed = seed
        self._pin = pin

    def _passage(self, epoch: int, ids: list[Ids], upcoming: list[Ids]) -> Passage:
        begin = partial(self._begin, epoch)
        return Passage(instructions=ids, begin=begin, upcoming=upcoming)

    @abstractmethod
    def _begin(self, epoch: int, pool: DecodePool, ids: Ids) -> Pending:
        """Start to fill a batch with the images of sample ids, as an epoch shows them."""


class DenseEvalLoader(ABC, Generic[R]):
    """One rank's share of a split, each row once: whole images, resized, not mirrored.

    Args:
        dataset: the split.
        config: transport, threads, prefetch.
        batch: images a batch; the last one may be smaller.
        short_side: shorter side of a view, pixels, unless its longer one gets too long; 0: usual.
        long_side: longest side of a view, pixels; 0: usual.
        rank: this worker.
        world: workers.
        pin: put batches into pinned memory.

    Attributes:
        reader: the class that reads the split, and refuses one of another kind.
        usual_sides: shorter and longest side of a view, pixels.

    Raises:
        DataError: the data set is of another kind.
    """

    reader: type[R]
    usual_sides: ClassVar[tuple[int, int]]

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        batch: int,
        short_side: int = 0,
        long_side: int = 0,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        self._rows = evaluation_rows(len(dataset), rank, world)
        self._batch = batch
        usual_short, usual_long = self.usual_sides
        self._sides = short_side or usual_short, long_side or usual_long
        self._pin = pin
        self._reader = self.reader(dataset, config)

    def __len__(self) -> int:
        """Batches of this rank; ranks may differ by one."""
        # Rounded up: the last batch may be smaller.
        return -(-len(self._rows) // self._batch)

    def __iter__(self) -> Iterator[HostBatch]:
        """Yield the batches in the order of the rows.

        Raises:
            DataError: an image or its annotation cannot be used; it carries the path.
        """
        size = self._batch
        batches = [self._rows[i : i + size] for i in range(0, len(self._rows), size)]
        yield from self._reader.stream([Passage(instructions=batches, begin=self._begin)], size)

    @abstractmethod
    def _begin(self, pool: DecodePool, ids: Ids) -> Pending:
        """Start to fill a batch with the images of rows."""

    def close(self) -> None:
        """Stop the threads; the loader is not used again."""
        self._reader.close()
