"""Shards -> host batches of square crops: this rank's share of each global batch.

A host batch is a dict: ``image`` uint8 (B, 3, S, S), channels last in memory; ``label`` int64
(B,), and of data with several labels ``labels`` uint8 (B, K); ``sample_id`` int64 (B,); with a
teacher's features ``teacher`` float16 (B, L, T). In training
every batch is one global batch's share; the share of an evaluation is cut into batches of any size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from itpn_ray.data.config import AugmentConfig, LoaderConfig
from itpn_ray.data.loading.decode import centre_crop, resize_square
from itpn_ray.data.loading.decoding_pool import DecodePool, HostBatch, Pending
from itpn_ray.data.loading.image_reader import ImageReader, Passage
from itpn_ray.data.loading.order import Ids, TrainOrder, evaluation_rows
from itpn_ray.data.loading.train_stream import TrainStream
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.store.teacher_features import Features
from itpn_ray.data.transforms.augmentation import make_policy, policy_draws
from itpn_ray.data.transforms.crops import random_flips, random_resized_crops
from itpn_ray.models.config import crop_fraction

Draw = Callable[[Ids, Ids, HostBatch], None]
"""Fills part of a batch for n sample ids and their rows."""


class _Crops:
    """Host batches of square crops, with a teacher's features beside them where there are any."""

    def __init__(
        self, reader: ImageReader, image_size: int, pin: bool, features: Features | None = None
    ) -> None:
        self._reader = reader
        self._image_size = image_size
        self._pin = pin
        self._features = features

    def passage(
        self,
        instructions: Sequence[Ids],
        draw: Draw,
        upcoming: Sequence[Ids] = (),
        view: int = 0,
        side: int | None = None,
    ) -> Passage:
        """One batch for each array of sample ids.

        Args:
            instructions: sample ids of each batch.
            draw: makes images of ids.
            upcoming: what comes next; its remote shards are fetched ahead.
            view: which of the teacher's features go with the images.
            side: of the crops, pixels; ``None``: as usual.
        """
        features = self._features
        count = len(self._reader.dataset)

        def fill(batch: HostBatch, start: int, stop: int) -> None:
            part = {name: tensor[start:stop] for name, tensor in batch.items()}
            ids = part["sample_id"].numpy()
            # Repeats of an image have ids of their own; rows, labels and pixels are the same.
            rows = ids % count
            draw(ids, rows, part)
            if features is not None:
                features.read(view, rows, part["teacher"])

        def begin(pool: DecodePool, ids: Ids) -> Pending:
            return pool.start(self._empty(ids, side or self._image_size), fill)

        return Passage(
            instructions=instructions,
            begin=begin,
            upcoming=upcoming,
            beside=None if features is None else features.fetch(view),
        )

    def stream(self, instructions: Sequence[Ids], draw: Draw) -> Iterator[HostBatch]:
        """Yield the batches of one passage.

        Raises:
            DataError: an image cannot be decoded; it carries the image's path.
        """
        largest = max((len(ids) for ids in instructions), default=0)
        yield from self._reader.stream([self.passage(instructions, draw)], largest)

    def _empty(self, ids: Ids, size: int) -> HostBatch:
        dataset, features = self._reader.dataset, self._features
        # Not zeroed: a square crop covers every pixel of its place.
        pixels = torch.empty(len(ids), size, size, 3, dtype=torch.uint8, pin_memory=self._pin)
        teacher = {} if features is None else {"teacher": features.empty(len(ids), self._pin)}
        rows = ids % len(dataset)
        several = {}
        if dataset.manifest.kind == "multilabel":
            several["labels"] = torch.from_numpy(dataset.multi_hot(rows))
        return (
            teacher
            | several
            | {
                "image": pixels.permute(0, 3, 1, 2),  # (B, 3, S, S), channels last in memory
                "label": torch.from_numpy(dataset.labels[rows].astype(np.int64)),
                "sample_id": torch.from_numpy(ids.astype(np.int64)),
            }
        )

    def close(self) -> None:
        """Stop the threads for good, and close remote shards."""
        self._reader.close()
        if self._features is not None:
            self._features.close()


class _Views:
    """What training sees of images: a function of (seed, epoch, sample id)."""

    def __init__(self, reader: ImageReader, augment: AugmentConfig, seed: int) -> None:
        self._reader = reader
        self._augment = augment
        self._policy = make_policy(augment)
        self._seed = seed

    def draw(self, epoch: int, ids: Ids, rows: Ids, out: HostBatch) -> None:
        """Decode, crop, flip and recolour the images of ``rows`` into ``out``."""
        reader, augment, seed = self._reader, self._augment, self._seed
        boxes = random_resized_crops(
            reader.widths[rows],
            reader.heights[rows],
            ids,
            seed=seed,
            epoch=epoch,
            min_scale=augment.min_scale,
        )
        flips = random_flips(ids, seed=seed, epoch=epoch, probability=augment.flip)
        draws = policy_draws(augment, seed, epoch, ids)
        parts = reader.decode_boxes(rows, boxes)
        for part, flip, draw, place in zip(parts, flips.tolist(), draws, out["image"], strict=True):
            crop = resize_square(part, place.shape[-1], flip)
            place.copy_(crop if self._policy is None else self._policy(crop, draw))


class TrainLoader(TrainStream):
    """One rank's shares of the global batches, augmented.

    Args:
        dataset: the training split.
        config: transport, threads, prefetch.
        image_size: side S of the square crops, pixels.
        augment: crops, flips, colours, repeats.
        seed: the run's seed.
        global_batch: images a step over all ranks.
        rank: this worker.
        world: workers.
        pin: put batches into pinned memory, for asynchronous copies to a GPU.
        features: a teacher's features; the images are then shown in its views, in turn.
        side: side of the crops of an epoch, pixels; ``None``: always ``image_size``.

    Raises:
        ConfigError: the split holds less than one global batch, or a rank would get no sample.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        image_size: int,
        augment: AugmentConfig,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
        features: Features | None = None,
        side: Callable[[int], int] | None = None,
    ) -> None:
        order = TrainOrder(
            starts=dataset.starts,
            global_batch=global_batch,
            seed=seed,
            repeats=augment.repeats,
            window=config.window,
        )
        super().__init__(ImageReader(dataset, config), order, rank, world)
        self._crops = _Crops(self._reader, image_size, pin, features)
        self._features = features
        self._side = side
        # A teacher's features were computed of views by their own seed; others would not fit.
        view_seed = seed if features is None else features.manifest.settings.seed
        self._views = _Views(self._reader, augment, view_seed)

    def batches(self, first: int, last: int) -> Generator[HostBatch, None, None]:
        """See `TrainStream.batches`."""
        if self._features is None or not self._features.remote:
            yield from super().batches(first, last)
            return
        # Of remote features one view is open at a time: epochs are read one after another.
        for passage in self._passages(first, last):
            yield from self._reader.stream([passage], self._largest)

    def _passage(self, epoch: int, ids: list[Ids], upcoming: list[Ids]) -> Passage:
        features = self._features
        # Cached views are taken in turn, since there are only so many.
        view = epoch if features is None else epoch % features.views
        side = None if self._side is None else self._side(epoch)
        return self._crops.passage(ids, partial(self._views.draw, view), upcoming, view, side)

    def close(self) -> None:
        """Stop the threads; the loader is not used again."""
        self._crops.close()


class EvalLoader:
    """One rank's share of a split, each row once: shorter side resized, centre cut out.

    Args:
        dataset: the split.
        config: transport, threads, prefetch.
        image_size: side S of the square crops, pixels.
        batch: images a batch; the last one may be smaller.
        crop: side of the crop over the shorter side of the resized image; ``None``: as usual for
            the size, see `crop_fraction`.
        rank: this worker.
        world: workers.
        pin: put batches into pinned memory.
        features: a teacher's features of these images.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        image_size: int,
        batch: int,
        crop: float | None = None,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
        features: Features | None = None,
    ) -> None:
        self._rows = evaluation_rows(len(dataset), rank, world)
        self._batch = batch
        self._crop = crop or crop_fraction(image_size)
        self._reader = ImageReader(dataset, config)
        self._crops = _Crops(self._reader, image_size, pin, features)

    def __len__(self) -> int:
        """Batches of this rank; ranks may differ by one."""
        return -(-len(self._rows) // self._batch)

    def __iter__(self) -> Iterator[HostBatch]:
        """Yield the batches in the order of the rows.

        Raises:
            DataError: an image cannot be decoded; it carries the image's path.
        """
        size = self._batch
        batches = [self._rows[i : i + size] for i in range(0, len(self._rows), size)]
        draw = partial(_draw_centres, self._reader, self._crop)
        yield from self._crops.stream(batches, draw)

    def close(self) -> None:
        """Stop the threads; the loader is not used again."""
        self._crops.close()


class ViewLoader:
    """Images of any rows as training shows them in some epoch, or as an evaluation does.

    Args:
        dataset: the split.
        config: threads, prefetch; the transport is this process.
        image_size: side S of the square crops, pixels.
        batch: images a batch; the last one may be smaller.
        augment: of the training; ``None`` shows the centres, as `EvalLoader` does.
        crop: of the centres, see `EvalLoader`.
        seed: the training's seed.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        image_size: int,
        batch: int,
        augment: AugmentConfig | None,
        seed: int,
        crop: float | None = None,
    ) -> None:
        self._batch = batch
        self._crop = crop or crop_fraction(image_size)
        self._reader = ImageReader(dataset, replace(config, transport="threads"))
        self._crops = _Crops(self._reader, image_size, False)
        self._views = None if augment is None else _Views(self._reader, augment, seed)

    def rows(self, start: int, stop: int, view: int) -> Iterator[HostBatch]:
        """Yield the rows from ``start`` to ``stop`` in order, as epoch ``view`` shows them.

        Raises:
            DataError: an image cannot be decoded; it carries the image's path.
        """
        # The last batch ends at `stop`, whatever the batch size leaves.
        edges = [*range(start, stop, self._batch), stop]
        batches = [np.arange(a, b, dtype=np.int64) for a, b in itertools.pairwise(edges)]
        if self._views is None:
            draw: Draw = partial(_draw_centres, self._reader, self._crop)
        else:
            draw = partial(self._views.draw, view)
        yield from self._crops.stream(batches, draw)

    def close(self) -> None:
        """Stop the threads; the loader is not used again."""
        self._crops.close()


def _draw_centres(reader: ImageReader, crop: float, ids: Ids, rows: Ids, out: HostBatch) -> None:
    """Decode the images of ``rows`` and cut out their centres into ``out``."""
    for row, place in zip(rows.tolist(), out["image"], strict=True):
        place.copy_(centre_crop(reader.decode(row), place.shape[-1], crop))
