"""Shards of rotated detection -> host batches: views of tiles with the objects they show.

What a batch holds is described in `itpn_ray.data.loading.view_batches`; boxes are turned ones.
"""

from __future__ import annotations

from functools import partial

from itpn_ray.data.annotations.objects import check_rotated
from itpn_ray.data.annotations.tiles import read_tile, tile_faults
from itpn_ray.data.config import LoaderConfig, RotatedAugmentConfig
from itpn_ray.data.loading.decoding_pool import DecodePool, Pending
from itpn_ray.data.loading.dense_loader import DenseEvalLoader, DenseTrainLoader
from itpn_ray.data.loading.image_reader import ImageReader
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.loading.view_batches import ViewBatches
from itpn_ray.data.store.shards import Shard, ShardedDataset
from itpn_ray.data.transforms.detection_targets import ViewObjects, refuse
from itpn_ray.data.transforms.turned_views import (
    TurnedView,
    training_tiles,
    turned_objects,
    whole_tile,
)


class TileImageReader(ImageReader):
    """Reads tiles of a split that has turned boxes.

    Raises:
        DataError: the data set is none of rotated detection.
    """

    def __init__(self, dataset: ShardedDataset, config: LoaderConfig) -> None:
        check_rotated(dataset)
        super().__init__(dataset, config)


class RotatedTrainLoader(DenseTrainLoader[TileImageReader, RotatedAugmentConfig]):
    """Tiles of one size, some mirrored and turned."""

    reader = TileImageReader

    def _begin(self, epoch: int, pool: DecodePool, ids: Ids) -> Pending:
        reader = self._reader
        views = training_tiles(
            reader.widths[ids],
            reader.heights[ids],
            ids,
            seed=self._seed,
            epoch=epoch,
            config=self._augment,
        )
        return _batches(reader, self._pin).begin(views, pool, ids)


class RotatedEvalLoader(DenseEvalLoader[TileImageReader]):
    """Whole tiles, with the objects that they show."""

    reader = TileImageReader
    usual_sides = (1024, 1024)

    def _begin(self, pool: DecodePool, ids: Ids) -> Pending:
        sizes = zip(self._reader.widths[ids], self._reader.heights[ids], strict=True)
        views = [whole_tile(int(width), int(height), *self._sides) for width, height in sizes]
        return _batches(self._reader, self._pin).begin(views, pool, ids)


def _batches(reader: TileImageReader, pin: bool) -> ViewBatches[TurnedView]:
    see = partial(_objects, len(reader.dataset.classes))
    return ViewBatches(reader, see, masks=False, pin=pin)


def _objects(classes: int, shard: Shard, row: int, view: TurnedView) -> ViewObjects:
    objects = read_tile(shard, row)
    refuse(objects.path, tile_faults(objects, classes))
    return turned_objects(objects, view)
