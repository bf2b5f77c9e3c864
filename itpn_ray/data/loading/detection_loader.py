"""Shards of detection -> host batches: views of whole images with the objects they show.

What a batch holds is described in `itpn_ray.data.loading.view_batches`; boxes are x1, y1, x2, y2.
"""

from __future__ import annotations

from functools import partial

from itpn_ray.data.annotations.objects import check_detection, read_objects
from itpn_ray.data.config import DetectionAugmentConfig, LoaderConfig
from itpn_ray.data.loading.decoding_pool import DecodePool, Pending
from itpn_ray.data.loading.dense_loader import DenseEvalLoader, DenseTrainLoader
from itpn_ray.data.loading.image_reader import ImageReader
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.loading.view_batches import ViewBatches
from itpn_ray.data.store.shards import Shard, ShardedDataset
from itpn_ray.data.transforms.detection_targets import ViewObjects, check_objects, view_objects
from itpn_ray.data.transforms.detection_views import PAD_TO, View, training_views, whole_view


class ObjectImageReader(ImageReader):
    """Reads images of a split that has objects.

    Raises:
        DataError: the data set is none of detection.
    """

    def __init__(self, dataset: ShardedDataset, config: LoaderConfig) -> None:
        check_detection(dataset)
        super().__init__(dataset, config)


class DetectionTrainLoader(DenseTrainLoader[ObjectImageReader, DetectionAugmentConfig]):
    """Views of several sizes, some cut and mirrored; with the objects' masks where ``masks``.

    Sides of batches are multiples of ``pad_to`` pixels, itself one of 32.
    """

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
        pad_to: int = PAD_TO,
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
        see = partial(_objects, len(dataset.classes), masks)
        self._batches = ViewBatches(self._reader, see, masks=masks, pin=pin, pad_to=pad_to)

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
        see = partial(_objects, len(self._reader.dataset.classes), False)
        batches = ViewBatches(self._reader, see, masks=False, pin=self._pin)
        return batches.begin(views, pool, ids)


def _objects(classes: int, masks: bool, shard: Shard, row: int, view: View) -> ViewObjects:
    objects = read_objects(shard, row)
    check_objects(objects, classes)
    return view_objects(objects, view, masks=masks)
