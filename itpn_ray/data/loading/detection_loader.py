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

H and W are the largest of the batch, rounded up to multiples of 32; `trim` takes a micro-batch out
of a worker's share so that they are those of the micro-batch. A view of 800 x 1333 takes
3 MB, so `LoaderConfig.prefetch` should count tens of images here, not hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from itpn_ray.data.annotations.objects import check_detection, read_objects
from itpn_ray.data.config import DetectionAugmentConfig, LoaderConfig
from itpn_ray.data.loading.decoding_pool import DecodePool, HostBatch, Pending
from itpn_ray.data.loading.dense_loader import DenseEvalLoader, DenseTrainLoader
from itpn_ray.data.loading.image_reader import ImageReader
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.detection_targets import ViewObjects, check_objects, view_objects
from itpn_ray.data.transforms.detection_views import View, padded_sides, training_views, whole_view
from itpn_ray.data.transforms.object_masks import MASK_SIDE


def trim(batch: HostBatch) -> HostBatch:
    """A part of a batch, padded no more than a batch of its images alone would be."""
    height, width = padded_sides(batch["size"].cpu().numpy())
    # One place at least, so that no tensor is empty.
    places = max(1, int((batch["label"] >= 0).sum(1).max()))
    per_object = batch.keys() & {"boxes", "label", "masks"}
    trimmed = {name: batch[name][:, :places] for name in per_object}
    return batch | trimmed | {"image": batch["image"][:, :, :height, :width]}


class ObjectImageReader(ImageReader):
    """Reads images of a split that has objects.

    Raises:
        DataError: the data set is none of detection.
    """

    def __init__(self, dataset: ShardedDataset, config: LoaderConfig) -> None:
        check_detection(dataset)
        super().__init__(dataset, config)


class _ViewBatches:
    """Host batches of padded views."""

    def __init__(self, reader: ImageReader, masks: bool, pin: bool) -> None:
        self._reader = reader
        self._masks = masks
        self._pin = pin

    def begin(self, views: Sequence[View], pool: DecodePool, ids: Ids) -> Pending:
        """Start to fill a batch with views of the images of sample ids."""
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
        height, width = padded_sides(sizes)
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


class DetectionTrainLoader(DenseTrainLoader[ObjectImageReader, DetectionAugmentConfig]):
    """Views of several sizes, some cut and mirrored; with the objects' masks where ``masks``."""

    reader = ObjectImageReader

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        augment: DetectionAugmentConfig,
        seed: int,
        global_batch: int,
        masks: bool = False,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            config,
            augment=augment,
            seed=seed,
            global_batch=global_batch,
            rank=rank,
            world=world,
            pin=pin,
        )
        self._batches = _ViewBatches(self._reader, masks, pin)

    def _begin(self, epoch: int, pool: DecodePool, ids: Ids) -> Pending:
        reader = self._reader
        views = training_views(
            reader.widths[ids],
            reader.heights[ids],
            ids,
            seed=self._seed,
            epoch=epoch,
            config=self._augment,
        )
        return self._batches.begin(views, pool, ids)


class DetectionEvalLoader(DenseEvalLoader[ObjectImageReader]):
    """Whole images, with the objects that they show."""

    reader = ObjectImageReader
    usual_sides = (800, 1333)

    def _begin(self, pool: DecodePool, ids: Ids) -> Pending:
        sizes = zip(self._reader.widths[ids], self._reader.heights[ids], strict=True)
        views = [whole_view(int(width), int(height), *self._sides) for width, height in sizes]
        return _ViewBatches(self._reader, masks=False, pin=self._pin).begin(views, pool, ids)
