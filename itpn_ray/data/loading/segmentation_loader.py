"""Shards of segmentation -> host batches of crops to train on, or of whole images to evaluate.

A host batch is a dict of B images:

| name | type | shape | meaning |
|---|---|---|---|
| image | uint8 | (B, 3, H, W) | RGB views, zeros at their right and lower sides |
| size | int64 | (B, 2) | height and width of the view inside its image |
| mask | int16 | (B, H', W') | class from 0, or -1 where ignored and beyond the view |
| original | int64 | (B, 2) | height and width of the stored image; in evaluation only |
| sample_id | int64 | (B,) | row of the split |

In training H = W = H' = W' is the side of the crop. In evaluation H and W are the largest of the
batch, rounded up to multiples of 32, and the mask is that of the stored image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from itpn_ray.data.annotations.class_masks import Mask, decode_mask
from itpn_ray.data.config import LoaderConfig, SegmentationAugmentConfig
from itpn_ray.data.loading.decoding_pool import DecodePool, HostBatch, Pending
from itpn_ray.data.loading.dense_loader import DenseEvalLoader, DenseTrainLoader
from itpn_ray.data.loading.image_reader import ImageReader
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.detection_views import View, padded_sides, whole_view
from itpn_ray.data.transforms.segmentation_views import training_crop, view_mask
from itpn_ray.errors import DataError


class MaskReader(ImageReader):
    """Reads the masks of a split too.

    Raises:
        DataError: the data set is none of segmentation.
    """

    def __init__(self, dataset: ShardedDataset, config: LoaderConfig) -> None:
        check_segmentation(dataset)
        super().__init__(dataset, config)

    def mask(self, row: int) -> Mask:
        """The mask of a stored image.

        Raises:
            DataError: it cannot be decoded, has another size or a class that there is not.
        """
        shard, inside = self.locate(row)
        found = shard.fields(inside, ("path", "mask"))
        size = (int(self.heights[row]), int(self.widths[row]))
        return checked_mask(found["mask"], size, found["path"], len(self.dataset.classes))


def checked_mask(data: bytes, size: tuple[int, int], path: str, classes: int) -> Mask:
    """The mask in a shard, of the image at ``path``.

    Raises:
        DataError: it cannot be decoded, has another size or a class that there is not.
    """
    try:
        mask = decode_mask(data)
    except OSError as error:
        raise _unusable(path, None, f"its mask cannot be decoded: {error}") from error
    if mask.shape != size:
        raise _unusable(path, mask.shape, f"is the size of its mask, and {size} that of the image")
    if mask.max(initial=-1) >= classes:
        raise _unusable(path, int(mask.max()), f"is a class in its mask, and there are {classes}")
    return mask


def check_segmentation(dataset: ShardedDataset) -> None:
    """Refuse data that has no masks of classes.

    Raises:
        DataError: it is no split of segmentation.
    """
    kind = dataset.manifest.kind
    if kind != "segmentation":
        raise DataError(
            "data",
            dataset.uri,
            f"was prepared for {kind}, but a class of each pixel is needed",
            "Prepare a folder with images and masks",
        )


class SegmentationTrainLoader(DenseTrainLoader[MaskReader, SegmentationAugmentConfig]):
    """Crops of one size, with their masks."""

    reader = MaskReader

    def _begin(self, epoch: int, pool: DecodePool, ids: Ids) -> Pending:
        side = self._augment.crop_size
        batch = {
            "image": _images(len(ids), side, side, self._pin),
            "size": torch.empty(len(ids), 2, dtype=torch.int64),
            # Ignored all over: what the view does not cover must not be learned from.
            "mask": torch.full((len(ids), side, side), -1, dtype=torch.int16, pin_memory=self._pin),
            "sample_id": torch.from_numpy(ids.astype(np.int64)),
        }

        def fill(batch: HostBatch, start: int, stop: int) -> None:
            for i in range(start, stop):
                row = int(ids[i])
                mask = self._reader.mask(row)
                view = training_crop(mask, row, seed=self._seed, epoch=epoch, config=self._augment)
                _place(batch, i, view, self._reader.decode(row))
                # A mirrored mask has negative strides, which torch does not take.
                seen = torch.from_numpy(view_mask(view, mask).copy())
                batch["mask"][i, : view.out_height, : view.out_width] = seen

        return pool.start(batch, fill, chunk=1)


class SegmentationEvalLoader(DenseEvalLoader[MaskReader]):
    """Whole images, with the masks of the stored ones."""

    reader = MaskReader
    usual_sides = (512, 2048)

    def _begin(self, pool: DecodePool, ids: Ids) -> Pending:
        reader = self._reader
        originals = np.stack([reader.heights[ids], reader.widths[ids]], axis=1).astype(np.int64)
        views = [whole_view(width, height, *self._sides) for height, width in originals.tolist()]
        sizes = np.array([(view.out_height, view.out_width) for view in views], dtype=np.int64)
        batch = {
            "image": _images(len(ids), *padded_sides(sizes), self._pin),
            "size": torch.from_numpy(sizes),
            # At the size of the stored images: what is judged is not resized.
            "mask": torch.full(
                (len(ids), *originals.max(0).tolist()),
                -1,
                dtype=torch.int16,
                pin_memory=self._pin,
            ),
            "original": torch.from_numpy(originals),
            "sample_id": torch.from_numpy(ids.astype(np.int64)),
        }

        def fill(batch: HostBatch, start: int, stop: int) -> None:
            for i in range(start, stop):
                row, (height, width) = int(ids[i]), originals[i].tolist()
                _place(batch, i, views[i], reader.decode(row))
                batch["mask"][i, :height, :width] = torch.from_numpy(reader.mask(row))

        return pool.start(batch, fill, chunk=1)


def _images(count: int, height: int, width: int, pin: bool) -> Tensor:
    """Zeros (count, 3, height, width) uint8, channels last in memory."""
    pixels = torch.zeros(count, height, width, 3, dtype=torch.uint8, pin_memory=pin)
    return pixels.permute(0, 3, 1, 2)


def _place(batch: HostBatch, at: int, view: View, image: Tensor) -> None:
    """Put the view of an image (3, H, W) into its place of a batch."""
    batch["image"][at, :, : view.out_height, : view.out_width] = view.image(image)
    batch["size"][at, 0], batch["size"][at, 1] = view.out_height, view.out_width


def _unusable(path: str, value: object, cause: str) -> DataError:
    return DataError(path, value, cause, "Prepare the data again")
