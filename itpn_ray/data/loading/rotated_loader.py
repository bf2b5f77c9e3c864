"""Shards of rotated detection -> host batches: views of tiles with the objects they show.

What a batch holds is described in `itpn_ray.data.loading.view_loader`; boxes are turned ones.
"""

from __future__ import annotations

from typing import Any

from itpn_ray.data.annotations.objects import check_rotated
from itpn_ray.data.annotations.tiles import read_tile, tile_faults
from itpn_ray.data.config import LoaderConfig, RotatedAugmentConfig
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.loading.view_loader import ViewEvalLoader, ViewTrainLoader
from itpn_ray.data.store.shards import Shard, ShardedDataset
from itpn_ray.data.transforms.detection_targets import ViewObjects, refuse
from itpn_ray.data.transforms.turned_views import (
    TurnedView,
    training_tiles,
    turned_objects,
    whole_tile,
)


class RotatedTrainLoader(ViewTrainLoader[TurnedView]):
    """See `ViewTrainLoader`: tiles of one size, some mirrored and turned.

    Args:
        dataset: the training split.
        config: transport, threads, prefetch.
        augment: size, flips and turns of the views.
        further: see `ViewTrainLoader`.

    Raises:
        ConfigError: the split holds less than one global batch, or a rank would get no sample.
        DataError: the data set is none of rotated detection.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        augment: RotatedAugmentConfig,
        **further: Any,
    ) -> None:
        check_rotated(dataset)
        self._augment = augment
        super().__init__(dataset, config, **further)

    def _views(self, epoch: int, ids: Ids) -> list[TurnedView]:
        reader = self._reader
        return training_tiles(
            reader.widths[ids],
            reader.heights[ids],
            ids,
            seed=self._seed,
            epoch=epoch,
            config=self._augment,
        )

    def _see(self, shard: Shard, row: int, view: TurnedView) -> ViewObjects:
        return _objects(shard, row, view, len(self._reader.dataset.classes))


class RotatedEvalLoader(ViewEvalLoader[TurnedView]):
    """See `ViewEvalLoader`: tiles are resized, not turned.

    Args:
        dataset: the split.
        config: transport, threads, prefetch.
        side: longer side of a view, pixels.
        further: see `ViewEvalLoader`.

    Raises:
        DataError: the data set is none of rotated detection.
    """

    def __init__(
        self, dataset: ShardedDataset, config: LoaderConfig, *, side: int = 1024, **further: Any
    ) -> None:
        check_rotated(dataset)
        self._side = side
        super().__init__(dataset, config, **further)

    def _view(self, width: int, height: int) -> TurnedView:
        return whole_tile(width, height, self._side)

    def _see(self, shard: Shard, row: int, view: TurnedView) -> ViewObjects:
        return _objects(shard, row, view, len(self._reader.dataset.classes))


def _objects(shard: Shard, row: int, view: TurnedView, classes: int) -> ViewObjects:
    objects = read_tile(shard, row)
    refuse(objects.path, tile_faults(objects, classes))
    return turned_objects(objects, view)
