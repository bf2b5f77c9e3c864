"""Looks a raw data set with COCO annotations over, before it is prepared and trained on.

What it finds is what preparation leaves out: both read annotations and images by the same code.

Memory: the listing (about 150 bytes an image), 64 encoded images, and a bit for each object.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pyarrow.fs import FileType

from itpn_ray.data.doctor.fault_list import Count, Fault, FaultList
from itpn_ray.data.doctor.images import check_files
from itpn_ray.data.sources.coco import CocoSource
from itpn_ray.data.sources.coco_file import CocoFile
from itpn_ray.data.sources.detect import detect
from itpn_ray.data.sources.objects import CocoObjects
from itpn_ray.storage import filesystem

_FORMATS = ("coco", "objects365")


@dataclass(frozen=True, kw_only=True)
class SplitContent:
    """One split: its annotation file, images and objects listed there, and classes."""

    file: str
    images: int
    objects: int
    classes: int
    masked: bool


@dataclass(frozen=True, kw_only=True)
class SourceHealth:
    """A raw data set.

    Attributes:
        uri: where it is.
        splits: by name.
        faults: everything that was found.
    """

    uri: str
    splits: dict[str, SplitContent]
    faults: FaultList

    @property
    def sound(self) -> bool:
        """Whether everything can be used."""
        return not self.faults.faults

    def lines(self) -> Iterator[str]:
        """The findings in words."""
        yield self.uri
        for name, split in self.splits.items():
            masks = "with masks" if split.masked else "without masks"
            yield (
                f"{name}: {split.file}, {split.images:,} images, {split.objects:,} objects of "
                f"{split.classes} classes, {masks}"
            )
        yield from self.faults.table()
        yield "sound" if self.sound else f"{self.faults.faults:,} FAULTS: prepare leaves these out"


def is_annotated(uri: str) -> bool:
    """Whether a place holds raw images with annotations, to be examined by `source_doctor`."""
    fs, root = filesystem(uri)
    there = fs.get_file_info(f"{root}/annotations").type == FileType.Directory
    return there and detect(uri) in _FORMATS


def source_doctor(
    uri: str, faults: FaultList, *, threads: int = 4, count: Count = lambda done, total: None
) -> SourceHealth:
    """Read every annotation and decode every image of a raw data set.

    Args:
        uri: a folder with ``annotations/``, local or remote.
        faults: takes what is found.
        threads: images decoded at once.
        count: told how many images are done.

    Raises:
        DataError: an annotation file cannot be read, or its images are nowhere.
    """
    source = CocoSource(uri)
    files = dict(source.files())
    total = sum(len(file.rows) for file in files.values())
    done = 0
    splits = {}
    with ThreadPoolExecutor(threads) as pool:
        for split, file in files.items():
            for fault in file.faults:
                faults.add(split, fault)
            frames = np.zeros((len(file.rows), 2), dtype=np.int32)
            for row, found in enumerate(check_files(source, file.rows, pool)):
                if isinstance(found, Fault):
                    faults.add(split, found)
                else:
                    frames[row] = found
                done += 1
                count(done, total)
            splits[split] = SplitContent(
                file=file.name,
                images=len(file.rows),
                objects=_check_objects(split, _framed(file, frames), faults),
                classes=len(file.categories),
                masked=file.objects.masked,
            )
    return SourceHealth(uri=uri, splits=splits, faults=faults)


def _framed(file: CocoFile, frames: NDArray[np.int32]) -> CocoObjects:
    """The objects of a file, with the sizes of images that only the images themselves tell.

    Args:
        file: the annotation file.
        frames: (rows, 2) width and height of its images, 0 where an image cannot be used.
    """
    objects = file.objects
    at = np.searchsorted(objects.image_ids, file.rows.column("image_id").to_numpy())
    whole = objects.frames.copy()
    whole[at] = np.where(whole[at] > 0, whole[at], frames)
    return replace(objects, frames=whole)


def _check_objects(split: str, objects: CocoObjects, faults: FaultList) -> int:
    """Look at every object; how many there are."""
    number = 0
    for found in objects.examine():
        number += 1
        for fault in (found,) if isinstance(found, Fault) else found.remarks:
            faults.add(split, fault)
    return number
