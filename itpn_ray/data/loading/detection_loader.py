"""Shards of detection -> host batches: views of whole images with the objects they show.

A host batch is a dict of B images with M places for objects, M that of the image with most:

| name | type | shape | meaning |
|---|---|---|---|
| image | uint8 | (B, 3, H, W) | RGB views, zeros at their right and lower sides |
| size | int64 | (B, 2) | height and width of the view inside its image |
| original | int64 | (B, 2) | height and width of the stored image |
| boxes | float32 | (B, M, 4) | x1, y1, x2, y2 in pixels of the view; 0 where there is none |
| label | int64 | (B, M) | class from 0, -1 where there is no object |
| masks | uint8 | (B, M, 112, 112) | 0 or 1, cut to the box; only where masks are asked for |
| sample_id | int64 | (B,) | row of the split |

The mask of an object that has none is 255 all over, which losses leave out.

H and W are the largest of the batch, rounded up to multiples of 32 or more; `trim` takes a
micro-batch out of a worker's share so that they are those of the micro-batch. A view of 800 x 1333
takes 3 MB, so `LoaderConfig.prefetch` should count tens of images here, not hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from itpn_ray.data.annotations.objects import check_detection, read_objects
from itpn_ray.data.config import DetectionAugmentConfig, LoaderConfig
from itpn_ray.data.loading.decoding_pool import DecodePool, HostBatch, Pending
from itpn_ray.data.loading.image_reader import ImageReader, Passage
from itpn_ray.data.loading.order import Ids, TrainOrder, evaluation_rows
from itpn_ray.data.loading.train_stream import TrainStream
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.detection_targets import ViewObjects, check_objects, view_objects
from itpn_ray.data.transforms.detection_views import (
    PAD_TO,
    View,
    padded_sides,
    training_views,
    whole_view,
)
from itpn_ray.data.transforms.object_masks import MASK_SIDE

Choose = Callable[[Ids], list[View]]
"""The views of n sample ids."""


def trim(batch: HostBatch, pad_to: int) -> HostBatch:
    """A part of a batch, padded to ``pad_to`` as a batch of its images alone would be."""
    most = (batch["label"] >= 0).sum(1).amax().view(1)
    # At once, for on a GPU the host waits for what it is told.
    *largest, objects = torch.cat([batch["size"].amax(0), most]).tolist()
    height, width = padded_sides(np.array([largest]), pad_to)
    # One place at least, so that no tensor is empty.
    places = max(1, objects)
    per_object = batch.keys() & {"boxes", "label", "masks"}
    trimmed = {name: batch[name][:, :places] for name in per_object}
    return batch | trimmed | {"image": batch["image"][:, :, :height, :width]}


class _ViewBatches:
    """Host batches of padded views."""

    def __init__(self, reader: ImageReader, masks: bool, pin: bool, pad_to: int = PAD_TO) -> None:
        check_detection(reader.dataset)
        self._reader = reader
        self._masks = masks
        self._pin = pin
        self._pad_to = pad_to

    def begin(self, choose: Choose, pool: DecodePool, ids: Ids) -> Pending:
        """Start to fill a batch with the views that ``choose`` gives of sample ids."""
        views = choose(ids)
        found: dict[int, ViewObjects] = {}

        def fill(batch: HostBatch, start: int, stop: int) -> None:
            for i in range(start, stop):
                row, view = int(ids[i]), views[i]
                seen = view.image(self._reader.decode(row))
                batch["image"][i, :, : view.out_height, : view.out_width] = seen
                objects = read_objects(*self._reader.locate(row))
                check_objects(objects, len(self._reader.dataset.classes))
                found[i] = view_objects(objects, view, masks=self._masks)

        def finish(batch: HostBatch) -> HostBatch:
            return batch | self._padded([found[i] for i in range(len(ids))])

        # One image a task: at these sizes one alone keeps a thread busy for long enough.
        return replace(pool.start(self._empty(ids, views), fill, chunk=1), finish=finish)

    def _empty(self, ids: Ids, views: Sequence[View]) -> HostBatch:
        reader = self._reader
        sizes = np.array([(view.out_height, view.out_width) for view in views], dtype=np.int64)
        height, width = padded_sides(sizes, self._pad_to)
        # Zeros, for what a view does not fill must not change from batch to batch.
        pixels = torch.zeros(len(ids), height, width, 3, dtype=torch.uint8, pin_memory=self._pin)
        originals = np.stack([reader.heights[ids], reader.widths[ids]], axis=1)  # (B, 2)
        return {
            "image": pixels.permute(0, 3, 1, 2),  # (B, 3, H, W), channels last in memory
            "size": torch.from_numpy(sizes),
            "original": torch.from_numpy(originals.astype(np.int64)),
            "sample_id": torch.from_numpy(ids.astype(np.int64)),
        }

    def _padded(self, found: Sequence[ViewObjects]) -> HostBatch:
        """The objects of B images, padded to the places of the one with most of them."""
        places = max(1, *(len(objects) for objects in found))

        def empty(*shape: int, value: float, dtype: torch.dtype) -> Tensor:
            whole = (len(found), places, *shape)
            return torch.full(whole, value, dtype=dtype, pin_memory=self._pin)

        padded = {
            "boxes": empty(4, value=0, dtype=torch.float32),
            "label": empty(value=-1, dtype=torch.int64),
        }
        if self._masks:
            padded["masks"] = empty(MASK_SIDE, MASK_SIDE, value=0, dtype=torch.uint8)
        for i, objects in enumerate(found):
            padded["boxes"][i, : len(objects)] = objects.boxes
            padded["label"][i, : len(objects)] = objects.labels
            if objects.masks is not None:
                padded["masks"][i, : len(objects)] = objects.masks
        return padded


class DetectionTrainLoader(TrainStream):
    """One rank's shares of the global batches, in views of several sizes, some cut and mirrored.

    The order and the shares are those of `itpn_ray.data.loading.crop_loader.TrainLoader`.

    Args:
        dataset: the training split.
        config: transport, threads, prefetch.
        augment: sizes, crops and flips of the views.
        seed: the run's seed.
        global_batch: images a step over all ranks.
        masks: give the objects' masks.
        pad_to: what sides of batches are multiples of, pixels, itself one of 32.
        rank: this worker.
        world: workers.
        pin: put batches into pinned memory, for asynchronous copies to a GPU.

    Raises:
        ConfigError: the split holds less than one global batch, or a rank would get no sample.
        DataError: the data set is none of detection.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        augment: DetectionAugmentConfig,
        seed: int,
        global_batch: int,
        masks: bool = False,
        pad_to: int = PAD_TO,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        order = TrainOrder(
            starts=dataset.starts, global_batch=global_batch, seed=seed, window=config.window
        )
        super().__init__(ImageReader(dataset, config), order, rank, world)
        self._augment = augment
        self._seed = seed
        self._batches = _ViewBatches(self._reader, masks, pin, pad_to)

    def _passage(self, epoch: int, ids: list[Ids], upcoming: list[Ids]) -> Passage:
        begin = partial(self._batches.begin, partial(self._views, epoch))
        return Passage(instructions=ids, begin=begin, upcoming=upcoming)

    def _views(self, epoch: int, ids: Ids) -> list[View]:
        reader = self._reader
        return training_views(
            reader.widths[ids],
            reader.heights[ids],
            ids,
            seed=self._seed,
            epoch=epoch,
            config=self._augment,
        )


class DetectionEvalLoader:
    """One rank's share of a split, each row once: whole images, resized, not mirrored.

    Args:
        dataset: the split.
        config: transport, threads, prefetch.
        batch: images a batch; the last one may be smaller.
        short_side: shorter side of a view, pixels, unless its longer one gets too long.
        long_side: longest side of a view, pixels.
        rank: this worker.
        world: workers.
        pin: put batches into pinned memory.

    Raises:
        DataError: the data set is none of detection.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        batch: int,
        short_side: int = 800,
        long_side: int = 1333,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        self._rows = evaluation_rows(len(dataset), rank, world)
        self._batch = batch
        self._sides = short_side, long_side
        self._reader = ImageReader(dataset, config)
        self._batches = _ViewBatches(self._reader, masks=False, pin=pin)

    def __len__(self) -> int:
        """Batches of this rank; ranks may differ by one."""
        return -(-len(self._rows) // self._batch)

    def __iter__(self) -> Iterator[HostBatch]:
        """Yield the batches in the order of the rows.

        Raises:
            DataError: an image cannot be decoded or an object cannot be used; it carries the path.
        """
        size = self._batch
        batches = [self._rows[i : i + size] for i in range(0, len(self._rows), size)]
        passage = Passage(instructions=batches, begin=partial(self._batches.begin, self._views))
        yield from self._reader.stream([passage], size)

    def _views(self, ids: Ids) -> list[View]:
        sizes = zip(self._reader.widths[ids], self._reader.heights[ids], strict=True)
        return [whole_view(int(width), int(height), *self._sides) for width, height in sizes]

    def close(self) -> None:
        """Stop the threads; the loader is not used again."""
        self._reader.close()
