"""Shards -> host batches: this rank's share of each global batch, decoded in threads.

What travels are read instructions (sample ids, eight bytes a picture): by Ray Data, or in this
process. The pictures themselves are mapped, decoded and cropped by threads of the training
process, straight into the batch.

A host batch is a dict: ``image`` uint8 (B, 3, S, S), channels last in memory; ``label`` int64
(B,); ``sample_id`` int64 (B,); with a teacher's features ``teacher`` float16 (B, L, T). In training
every batch is one global batch's share; the share of an evaluation is cut into batches of any size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from itpn_ray.data.augment import make_policy, policy_draws
from itpn_ray.data.cache import RemoteShards
from itpn_ray.data.carrier import Carrier, ray_carrier, thread_carrier
from itpn_ray.data.config import AugmentConfig, LoaderConfig
from itpn_ray.data.crops import random_flips, random_resized_crops
from itpn_ray.data.decode import centre_crop, crop_resize, decode_rgb
from itpn_ray.data.features import Features
from itpn_ray.data.order import Ids, TrainOrder, evaluation_rows, share
from itpn_ray.data.pool import DecodePool, HostBatch, Pending, run_ahead
from itpn_ray.data.shards import Shard, ShardedDataset
from itpn_ray.errors import DataError
from itpn_ray.storage import is_s3

Draw = Callable[[Ids, Ids, HostBatch], None]
"""Fills part of a batch for n sample ids and their rows."""
CENTRE = 0.875
"""Side of an evaluation's crop over the shorter side of the resized picture: 224 of 256."""
_CARRIERS: dict[str, Carrier] = {"ray": ray_carrier, "threads": thread_carrier}


class _HostBatches:
    """Fills host batches in the order of their instructions, a bounded number ahead."""

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        image_size: int,
        pin: bool,
        features: Features | None = None,
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.image_size = image_size
        self.pin = pin
        self.features = features
        self.widths = dataset.index.column("width").to_numpy()
        self.heights = dataset.index.column("height").to_numpy()
        self.remote = RemoteShards(dataset, config, Shard) if is_s3(dataset.uri) else None
        self._pool: DecodePool | None = None

    def stream(
        self,
        instructions: Sequence[Ids],
        draw: Draw,
        upcoming: Sequence[Ids] = (),
        view: int = 0,
    ) -> Iterator[HostBatch]:
        """Yield one batch for each array of sample ids.

        Args:
            instructions: sample ids of each batch.
            draw: makes pictures of ids.
            upcoming: what the next stream will begin with; its remote shards are fetched ahead.
            view: which of the teacher's features go with the pictures.

        Raises:
            DataError: a picture cannot be decoded; it carries the picture's path.
        """
        if not instructions:
            return
        pool = self._pool = self._pool or DecodePool(self.config.threads)
        ahead = max(1, self.config.prefetch // max(len(ids) for ids in instructions))
        begun = itertools.count()
        features = None if self.features is None else self.features.fetch(view)
        if self.remote is not None:
            self.remote.plan([ids % len(self.dataset) for ids in (*instructions, *upcoming)])
        if features is not None:
            features.plan([ids % len(self.dataset) for ids in instructions])

        def fill(batch: HostBatch, start: int, stop: int) -> None:
            part = {name: tensor[start:stop] for name, tensor in batch.items()}
            ids = part["sample_id"].numpy()
            rows = ids % len(self.dataset)
            draw(ids, rows, part)
            if self.features is not None:
                self.features.read(view, rows, part["teacher"])

        def begin(ids: Ids) -> Pending:
            number = next(begun)
            for remote in (self.remote, features):
                if remote is not None:
                    remote.advance(number, number - ahead)
            return pool.start(self._empty(ids), fill)

        carried = _CARRIERS[self.config.carrier](instructions)
        yield from run_ahead(carried, begin, ahead)

    def decode(self, row: int) -> Tensor:
        """One stored picture, (3, H, W) uint8.

        Raises:
            DataError: it cannot be decoded, or is not of the size that the index says.
        """
        shard, inside = self.dataset.locate(row)
        try:
            picture = decode_rgb(self._shard(shard).image(inside))
        except RuntimeError as error:
            raise self._broken(row, str(error).splitlines()[0]) from error
        expected = (int(self.heights[row]), int(self.widths[row]))
        if picture.shape[1:] != expected:
            raise self._broken(row, f"has {tuple(picture.shape[1:])} pixels, not {expected}")
        return picture

    def _shard(self, index: int) -> Shard:
        return self.dataset.shard(index) if self.remote is None else self.remote.shard(index)

    def _broken(self, row: int, cause: str) -> DataError:
        shard, inside = self.dataset.locate(row)
        return DataError(
            self._shard(shard).row(inside)["path"],
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
        if self.features is not None:
            self.features.close()

    def _empty(self, ids: Ids) -> HostBatch:
        size = self.image_size
        pixels = torch.empty(len(ids), size, size, 3, dtype=torch.uint8, pin_memory=self.pin)
        features = self.features
        teacher = {} if features is None else {"teacher": features.empty(len(ids), self.pin)}
        return teacher | {
            "image": pixels.permute(0, 3, 1, 2),  # (B, 3, S, S), channels last in memory
            "label": torch.from_numpy(
                self.dataset.labels[ids % len(self.dataset)].astype(np.int64)
            ),
            "sample_id": torch.from_numpy(ids.astype(np.int64)),
        }


class _Views:
    """What training sees of pictures: a function of (seed, epoch, sample id)."""

    def __init__(self, host: _HostBatches, augment: AugmentConfig, seed: int) -> None:
        self._host = host
        self._augment = augment
        self._policy = make_policy(augment)
        self._seed = seed

    def draw(self, epoch: int, ids: Ids, rows: Ids, out: HostBatch) -> None:
        """Decode, crop, flip and recolour the pictures of ``rows`` into ``out``."""
        host, augment, seed = self._host, self._augment, self._seed
        boxes = random_resized_crops(
            host.widths[rows],
            host.heights[rows],
            ids,
            seed=seed,
            epoch=epoch,
            min_scale=augment.min_scale,
        )
        flips = random_flips(ids, seed=seed, epoch=epoch, probability=augment.flip)
        draws = policy_draws(augment, seed, epoch, ids)
        for i, row in enumerate(rows.tolist()):
            box = tuple(boxes[i].tolist())
            crop = crop_resize(host.decode(row), box, host.image_size, bool(flips[i]))
            out["image"][i] = crop if self._policy is None else self._policy(crop, draws[i])


class TrainLoader:
    """One rank's shares of the global batches, augmented.

    Args:
        dataset: the training split.
        config: carrier, threads, prefetch.
        image_size: side S of the square crops, pixels.
        augment: crops, flips, colours, repeats.
        seed: the run's seed.
        global_batch: pictures a step over all ranks.
        rank: this worker.
        world: workers.
        pin: put batches into pinned memory, for asynchronous copies to a GPU.
        features: a teacher's features; the pictures are then shown in its views, in turn.

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
    ) -> None:
        self._order = TrainOrder(
            starts=dataset.starts,
            global_batch=global_batch,
            seed=seed,
            repeats=augment.repeats,
            window=config.window,
        )
        self._share = slice(*share(global_batch, rank, world))
        self._host = _HostBatches(dataset, config, image_size, pin, features)
        view_seed = seed if features is None else features.manifest.settings.seed
        self._views = _Views(self._host, augment, view_seed)

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        return self._order.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[HostBatch, None, None]:
        """Yield the batches of an epoch from ``first_step`` on, without reading those before it.

        Raises:
            DataError: a picture cannot be decoded; it carries the picture's path.
        """
        ids = self._order.epoch(epoch)[first_step:, self._share]  # (steps, share)
        features = self._host.features
        view = epoch if features is None else epoch % features.views
        # Only remote shards are worth another permutation to know what comes after the epoch.
        remote = self._host.remote is not None
        upcoming = list(self._order.epoch(epoch + 1)[:1, self._share]) if remote else []
        draw = partial(self._views.draw, view)
        yield from self._host.stream(list(ids), draw, upcoming, view)

    def close(self) -> None:
        """Stop the threads; the loader is not used again."""
        self._host.close()


class EvalLoader:
    """One rank's share of a split, each row once: shorter side resized, centre cut out.

    Args:
        dataset: the split.
        config: carrier, threads, prefetch.
        image_size: side S of the square crops, pixels.
        batch: pictures a batch; the last one may be smaller.
        crop: side of the crop over the shorter side of the resized picture (0.875: 224 of 256).
        rank: this worker.
        world: workers.
        pin: put batches into pinned memory.
        features: a teacher's features of these pictures.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        image_size: int,
        batch: int,
        crop: float = CENTRE,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
        features: Features | None = None,
    ) -> None:
        self._rows = evaluation_rows(len(dataset), rank, world)
        self._batch = batch
        self._crop = crop
        self._host = _HostBatches(dataset, config, image_size, pin, features)

    def __len__(self) -> int:
        """Batches of this rank; ranks may differ by one."""
        return -(-len(self._rows) // self._batch)

    def __iter__(self) -> Iterator[HostBatch]:
        """Yield the batches in the order of the rows.

        Raises:
            DataError: a picture cannot be decoded; it carries the picture's path.
        """
        size = self._batch
        batches = [self._rows[i : i + size] for i in range(0, len(self._rows), size)]
        draw = partial(_draw_centres, self._host, self._crop)
        yield from self._host.stream(batches, draw)

    def close(self) -> None:
        """Stop the threads; the loader is not used again."""
        self._host.close()


class ViewLoader:
    """Pictures of any rows as training shows them in some epoch, or as an evaluation does.

    Args:
        dataset: the split.
        config: threads, prefetch; the carrier is this process.
        image_size: side S of the square crops, pixels.
        batch: pictures a batch; the last one may be smaller.
        augment: of the training; ``None`` shows the centres, as `EvalLoader` does.
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
    ) -> None:
        self._batch = batch
        self._host = _HostBatches(dataset, replace(config, carrier="threads"), image_size, False)
        self._views = None if augment is None else _Views(self._host, augment, seed)

    def rows(self, start: int, stop: int, view: int) -> Iterator[HostBatch]:
        """Yield the rows from ``start`` to ``stop`` in order, as epoch ``view`` shows them.

        Raises:
            DataError: a picture cannot be decoded; it carries the picture's path.
        """
        edges = [*range(start, stop, self._batch), stop]
        batches = [np.arange(a, b, dtype=np.int64) for a, b in itertools.pairwise(edges)]
        if self._views is None:
            draw: Draw = partial(_draw_centres, self._host, CENTRE)
        else:
            draw = partial(self._views.draw, view)
        yield from self._host.stream(batches, draw)

    def close(self) -> None:
        """Stop the threads; the loader is not used again."""
        self._host.close()


def _draw_centres(host: _HostBatches, crop: float, ids: Ids, rows: Ids, out: HostBatch) -> None:
    """Decode the pictures of ``rows`` and cut out their centres into ``out``."""
    for i, row in enumerate(rows.tolist()):
        out["image"][i] = centre_crop(host.decode(row), host.image_size, crop)
