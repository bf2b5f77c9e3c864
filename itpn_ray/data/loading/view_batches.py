"""Batches of views of images with the objects they show: what all detectors' loaders give.

A host batch is a dict of B images with M places for objects, M that of the image with most:

| name | type | shape | meaning |
|---|---|---|---|
| image | uint8 | (B, 3, H, W) | RGB views, zeros at their right and lower sides |
| size | int64 | (B, 2) | height and width of the view inside its image |
| original | int64 | (B, 2) | height and width of the stored image |
| boxes | float32 | (B, M, 4) or (B, M, 5) | in pixels of the view; 0 where there is none |
| label | int64 | (B, M) | class from 0, -1 where there is no object |
| masks | uint8 | (B, M, 112, 112) | 0 or 1, cut to the box; only where masks are asked for |
| sample_id | int64 | (B,) | row of the split |

Boxes are x1, y1, x2, y2, or turned ones (`itpn_ray.models.rotated.boxes`). The mask of an object
that has none is 255 all over, which losses leave out.

H and W are the largest of the batch, rounded up to multiples of 32 or more; `trim` takes a
micro-batch out of a worker's share so that they are those of the micro-batch. A view of 800 x 1333
takes 3 MB, so `LoaderConfig.prefetch` should count tens of images here, not hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from itpn_ray.data.loading.decoding_pool import DecodePool, HostBatch, Pending
from itpn_ray.data.loading.image_reader import ImageReader
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.store.shards import Shard
from itpn_ray.data.transforms.detection_targets import ViewObjects
from itpn_ray.data.transforms.detection_views import PAD_TO, padded_sides
from itpn_ray.data.transforms.object_masks import MASK_SIDE


class AnyView(Protocol):
    """What of an image is seen, and at which size."""

    @property
    def out_height(self) -> int:
        """Rows of the view."""

    @property
    def out_width(self) -> int:
        """Columns of the view."""

    def image(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, out_height, out_width) uint8."""


V = TypeVar("V", bound=AnyView)


def trim(batch: HostBatch, pad_to: int = PAD_TO) -> HostBatch:
    """A part of a batch, padded no more than a batch of its images alone would be."""
    # (micro-batch, M) -> (1,): the objects of the image with most.
    most = (batch["label"] >= 0).sum(1).amax().view(1)
    # At once, for on a GPU the host waits for what it is told.
    *largest, objects = torch.cat([batch["size"].amax(0), most]).tolist()
    height, width = padded_sides(np.array([largest]), pad_to)
    # One place at least, so that no tensor is empty.
    places = max(1, objects)
    per_object = batch.keys() & {"boxes", "label", "masks"}
    trimmed = {name: batch[name][:, :places] for name in per_object}
    return batch | trimmed | {"image": batch["image"][:, :, :height, :width]}


class ViewBatches(Generic[V]):
    """Host batches of padded views.

    Args:
        reader: decodes the images.
        see: the objects of a row of a shard in a view of it.
        masks: whether objects have masks.
        pin: put batches into pinned memory.
        pad_to: what sides of batches are multiples of, pixels, itself one of 32.
    """

    def __init__(
        self,
        reader: ImageReader,
        see: Callable[[Shard, int, V], ViewObjects],
        *,
        masks: bool,
        pin: bool,
        pad_to: int = PAD_TO,
    ) -> None:
        self._reader = reader
        self._pad_to = pad_to
        self._see = see
        self._masks = masks
        self._pin = pin

    def begin(self, views: Sequence[V], pool: DecodePool, ids: Ids) -> Pending:
        """Start to fill a batch with views of the images of sample ids."""
        found: dict[int, ViewObjects] = {}

        def fill(batch: HostBatch, start: int, stop: int) -> None:
            for i in range(start, stop):
                # Without repeats a sample id is its row.
                row, view = int(ids[i]), views[i]
                seen = view.image(self._reader.decode(row))
                batch["image"][i, :, : view.out_height, : view.out_width] = seen
                # Tasks write different keys, and `finish` runs
                # once all of them are done: no lock is needed.
                found[i] = self._see(*self._reader.locate(row), view)

        def finish(batch: HostBatch) -> HostBatch:
            return batch | self._padded([found[i] for i in range(len(ids))])

        # One image a task: at these sizes one alone keeps a thread busy for long enough.
        return replace(pool.start(self._empty(ids, views), fill, chunk=1), finish=finish)

    def _empty(self, ids: Ids, views: Sequence[V]) -> HostBatch:
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
        # One place at least, as in `trim`.
        places = max(1, *(len(objects) for objects in found))

        def empty(*shape: int, value: float, dtype: torch.dtype) -> Tensor:
            whole = (len(found), places, *shape)
            return torch.full(whole, value, dtype=dtype, pin_memory=self._pin)

        padded = {
            "boxes": empty(found[0].boxes.shape[1], value=0, dtype=torch.float32),
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
