"""The objects of a tile, as a shard of rotated detection holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from itpn_ray.data.annotations.faults import FaultError, faults_of, has_area
from itpn_ray.data.annotations.objects import ObjectReader, Objects, check_rotated, read_objects
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.store.shards import Shard, ShardedDataset


@dataclass(frozen=True, kw_only=True)
class TileObjects(Objects):
    """All objects of one tile of an image; ``crowds`` are those that are not learned from.

    Attributes:
        corners: (n, 4, 2) float64, of turned boxes, in pixels of the tile; NaN where a damaged
            shard has none.
        difficult: (n,) bool, as annotated.
        origin: (x, y) of the tile in its image, pixels.
    """

    corners: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    origin: tuple[int, int]


def read_tile(shard: Shard, row: int) -> TileObjects:
    """The objects of a row of a shard; the image itself is not touched."""
    objects = read_objects(shard, row)
    found = shard.fields(row, ("difficult", "origin"))
    x, y = found["origin"]
    outlines = [parts[0] if parts else [] for parts in objects.polygons]
    # A turned box has four corners; NaN lets `tile_faults`
    # name a damaged one instead of failing here.
    outlines = [outline if len(outline) == 8 else [np.nan] * 8 for outline in outlines]
    return TileObjects(
        **vars(objects),
        corners=np.array(outlines, dtype=np.float64).reshape(-1, 4, 2),
        difficult=np.array(found["difficult"], dtype=np.bool_),
        origin=(x, y),
    )


def tile_faults(objects: TileObjects, classes: int) -> Iterator[tuple[int, FaultError]]:
    """The objects of a tile that cannot be used: number and fault of each; see `faults_of`."""
    yield from faults_of(objects, classes)
    for number, corners in zip(objects.ids.tolist(), objects.corners, strict=True):
        if not np.isfinite(corners).all():
            told = "has no turned box of four corners"
            yield number, FaultError(kinds.BOX_NOT_FINITE, told)
        elif not has_area(corners.reshape(-1).tolist()):
            where = " ".join(f"{value:g}" for value in corners.reshape(-1))
            told = f"has a box without area: {where}"
            yield number, FaultError(kinds.BOX_WITHOUT_AREA, told)


class TileReader(ObjectReader):
    """Objects of any tile of a split, for evaluation and drawing.

    Raises:
        DataError: it is no split of rotated detection.
    """

    def __getitem__(self, sample_id: int) -> TileObjects:
        return read_tile(*self._locate(sample_id))

    def _check(self, dataset: ShardedDataset) -> None:
        check_rotated(dataset)
