"""Shards of detection -> host batches: views of whole images with the objects they show.

What a batch holds is described in `itpn_ray.data.loading.view_loader`; boxes are x1, y1, x2, y2.
"""

from __future__ import annotations

from typing import Any

from itpn_ray.data.annotations.objects import check_detection, read_objects
from itpn_ray.data.config import DetectionAugmentConfig, LoaderConfig
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.loading.view_loader import ViewEvalLoader, ViewTrainLoader
from itpn_ray.data.store.shards import Shard, ShardedDataset
from itpn_ray.data.transforms.detection_targets import ViewObjects, check_objects, view_objects
from itpn_ray.data.transforms.detection_views import View, training_views, whole_view


class DetectionTrainLoader(ViewTrainLoader[View]):
    """See `ViewTrainLoader`: views of several sizes, some cut and mirrored.

    Args:
        dataset: the training split.
        config: transport, threads, prefetch.
        augment: sizes, crops and flips of the views.
        masks: give the objects' masks.
        further: see `ViewTrainLoader`.

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
        masks: bool = False,
        **further: Any,
    ) -> None:
        check_detection(dataset)
        self._augment = augment
        self._masks = masks
        super().__init__(dataset, config, masks=masks, **further)

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

    def _see(self, shard: Shard, row: int, view: View) -> ViewObjects:
        return _objects(shard, row, view, len(self._reader.dataset.classes), masks=self._masks)


class DetectionEvalLoader(ViewEvalLoader[View]):
    """See `ViewEvalLoader`: images are resized, not mirrored.

    Args:
        dataset: the split.
        config: transport, threads, prefetch.
        short_side: shorter side of a view, pixels, unless its longer one gets too long.
        long_side: longest side of a view, pixels.
        further: see `ViewEvalLoader`.

    Raises:
        DataError: the data set is none of detection.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        config: LoaderConfig,
        *,
        short_side: int = 800,
        long_side: int = 1333,
        **further: Any,
    ) -> None:
        check_detection(dataset)
        self._sides = short_side, long_side
        super().__init__(dataset, config, **further)

    def _view(self, width: int, height: int) -> View:
        return whole_view(width, height, *self._sides)

    def _see(self, shard: Shard, row: int, view: View) -> ViewObjects:
        return _objects(shard, row, view, len(self._reader.dataset.classes), masks=False)


def _objects(shard: Shard, row: int, view: View, classes: int, *, masks: bool) -> ViewObjects:
    objects = read_objects(shard, row)
    check_objects(objects, classes)
    return view_objects(objects, view, masks=masks)
