"""Reads the images of a split: instructions, remote shards and decoding threads in one place.

Every loader stands on this. What travels are read instructions (sample ids, eight bytes an image):
by Ray Data, or in this process. The images are mapped and decoded by threads of the training
process, straight into its batches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.loading.decode import decode_box, decode_rgb
from itpn_ray.data.loading.decoding_pool import DecodePool, HostBatch, Pending, run_ahead
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.loading.transport import Transport, ray_transport, thread_transport
from itpn_ray.data.store.shard_cache import RemoteShards
from itpn_ray.data.store.shards import Shard, ShardedDataset
from itpn_ray.errors import DataError, told_by
from itpn_ray.storage import is_s3

Begin = Callable[[DecodePool, Ids], Pending]
"""Starts to fill a batch with the images of n sample ids, in the threads of a pool."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Batches that are filled in the same way, such as those of an epoch."""

    instructions: Sequence[Ids]
    """Sample ids of each batch."""
    begin: Begin
    """Starts to fill a batch."""
    upcoming: Sequence[Ids] = ()
    """What the next passage will begin with; its remote shards are fetched ahead."""
    beside: RemoteShards[Any] | None = None
    """Remote shards with the same rows that ``begin`` reads too."""


_TRANSPORTS: dict[str, Transport] = {"ray": ray_transport, "threads": thread_transport}


class ImageReader:
    """Fills host batches in the order of their instructions, a bounded number ahead.

    Args:
        dataset: the split.
        config: transport, threads, prefetch, cache of remote shards.

    Attributes:
        dataset: the split.
        widths: (rows,) int32 of the stored images, pixels.
        heights: (rows,) int32 likewise.
        remote: what fetches the shards; None where they are local.
    """

    def __init__(self, dataset: ShardedDataset, config: LoaderConfig) -> None:
        self.dataset = dataset
        self.widths = dataset.index.column("width").to_numpy()
        self.heights = dataset.index.column("height").to_numpy()
        self.remote = RemoteShards(dataset, config, Shard) if is_s3(dataset.uri) else None
        self._config = config
        self._pool: DecodePool | None = None

    def stream(self, passages: Iterable[Passage], largest: int) -> Iterator[HostBatch]:
        """Yield the batches of all passages, one after another.

        Args:
            passages: asked for the next one while the last batches of the one before are filled.
            largest: images of the largest batch.

        Raises:
            DataError: an image cannot be decoded; it carries the image's path.
        """
        # Prefetch counts images, so that memory does not depend on the batch.
        ahead = max(1, self._config.prefetch // max(1, largest))
        yield from run_ahead(self._begin(passages, ahead), ahead)

    def _begin(self, passages: Iterable[Passage], ahead: int) -> Generator[Pending, None, None]:
        """Start to fill one batch each time that it is asked."""
        number = 0
        for passage in passages:
            if not passage.instructions:
                continue
            self._plan(passage, number)
            for ids in _TRANSPORTS[self._config.transport](passage.instructions):
                for remote in (self.remote, passage.beside):
                    if remote is not None:
                        # Batches before `number - ahead` have been handed
                        # out, so nobody reads their shards any more.
                        remote.advance(number, number - ahead)
                # Made at the first batch: a loader that is only asked its length has no threads.
                pool = self._pool = self._pool or DecodePool(self._config.threads)
                yield passage.begin(pool, ids)
                number += 1

    def _plan(self, passage: Passage, first: int) -> None:
        """Tell what fetches shards which ones a passage needs; ``first`` is its first batch."""
        count = len(self.dataset)
        ids = passage.instructions
        if self.remote is not None:
            # Shards know rows; sample ids of repeats are folded back to them.
            self.remote.plan([part % count for part in (*ids, *passage.upcoming)], first)
        if passage.beside is not None:
            passage.beside.plan([part % count for part in ids], first)

    def decode(self, row: int) -> Tensor:
        """One stored image, (3, H, W) uint8.

        Raises:
            DataError: it cannot be decoded, or is not of the size that the index says.
        """
        shard, inside = self.locate(row)
        try:
            image = decode_rgb(shard.image(inside))
        except RuntimeError as error:
            raise self._broken(row, told_by(error)) from error
        found = (image.shape[1], image.shape[2])
        # Boxes were drawn from the index: on an image of another size they would miss.
        if found != (self.heights[row], self.widths[row]):
            raise self._wrong_size(row, found)
        return image

    def decode_boxes(self, rows: Ids, boxes: Ids) -> Iterator[Tensor]:
        """Parts of stored images, one after another.

        All rows are looked up before the first is decoded: after each image these tables would
        come from memory again, pushed out of the core's cache by its pixels.

        Args:
            rows: (n,) of the split.
            boxes: (n, 4) top, left, height and width, pixels.

        Yields:
            (3, height, width) uint8.

        Raises:
            DataError: an image cannot be decoded, or is not of the size that the index says.
        """
        numbers = rows.tolist()
        images = [shard.image(inside) for shard, inside in map(self.locate, numbers)]
        sizes = zip(self.heights[rows].tolist(), self.widths[rows].tolist(), strict=True)
        for row, image, size, box in zip(numbers, images, sizes, boxes.tolist(), strict=True):
            try:
                found, part = decode_box(image, tuple(box))
            except RuntimeError as error:
                raise self._broken(row, told_by(error)) from error
            if found != size:
                raise self._wrong_size(row, found)
            yield part

    def _wrong_size(self, row: int, found: tuple[int, int]) -> DataError:
        expected = (int(self.heights[row]), int(self.widths[row]))
        return self._broken(row, f"has {found} pixels, not {expected}")

    def locate(self, row: int) -> tuple[Shard, int]:
        """The open shard that holds a row of a batch under way, and the row in it."""
        index, inside = self.dataset.locate(row)
        shard = self.dataset.shard(index) if self.remote is None else self.remote.shard(index)
        return shard, inside

    def _broken(self, row: int, cause: str) -> DataError:
        shard, inside = self.locate(row)
        return DataError(
            shard.row(inside)["path"],
            None,
            f"row {row} of {self.dataset.split} cannot be decoded: {cause}",
            f"Check the data with `itpn-ray doctor {self.dataset.uri}`, or prepare it again",
        )

    def close(self) -> None:
        """Stop the threads for good, and close remote shards."""
        if self._pool is not None:
            self._pool.close()
        if self.remote is not None:
            self.remote.close()
