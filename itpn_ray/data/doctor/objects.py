"""Checks the objects of prepared shards of detection, and the numbers of images and objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from itpn_ray.data.annotations.faults import faults_of
from itpn_ray.data.annotations.id_set import IdBook
from itpn_ray.data.annotations.objects import read_objects
from itpn_ray.data.annotations.tiles import read_tile, tile_faults
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import Fault
from itpn_ray.data.sources.annotated.ids import object_entry
from itpn_ray.data.store.shards import Shard


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """An image's path, its own number and those of its objects."""

    path: str
    image: int
    objects: list[int]


def check_objects_of(shard: Shard, classes: int) -> tuple[list[Numbers], list[Fault]]:
    """The numbers in a shard, and what is wrong with single objects.

    Args:
        shard: of detection.
        classes: how many there are.
    """
    numbers, faults = [], []
    for row in range(len(shard)):
        objects = read_objects(shard, row)
        path, ids = objects.path, objects.ids.tolist()
        numbers.append(Numbers(path=path, image=objects.image_id, objects=ids))
        for number, fault in faults_of(objects, classes):
            entry = object_entry(number)
            faults.append(Fault(file=path, entry=entry, kind=fault.kind, reason=fault.reason))
    return numbers, faults


def check_tiles_of(shard: Shard, classes: int) -> Iterator[Fault]:
    """What is wrong with single objects of a shard of tiles, which may share them.

    Args:
        shard: of rotated detection.
        classes: how many there are.
    """
    for row in range(len(shard)):
        objects = read_tile(shard, row)
        for number, fault in tile_faults(objects, classes):
            entry = object_entry(number)
            yield Fault(file=objects.path, entry=entry, kind=fault.kind, reason=fault.reason)


class Repeats:
    """Finds numbers that come again, over all shards of a split."""

    def __init__(self) -> None:
        self._images = IdBook()
        self._objects = IdBook()

    def find(self, numbers: Numbers) -> Iterator[Fault]:
        """Those of an image that an earlier one had."""
        if not self._images.add(numbers.image):
            entry = f"image {numbers.image}"
            reason = "has the id of an earlier image"
            yield Fault(file=numbers.path, entry=entry, kind=kinds.IMAGE_TWICE, reason=reason)
        for number in numbers.objects:
            if not self._objects.add(number):
                entry = object_entry(number)
                reason = "has the id of an earlier annotation"
                yield Fault(file=numbers.path, entry=entry, kind=kinds.OBJECT_TWICE, reason=reason)
