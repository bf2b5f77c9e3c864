"""Looks a raw data set with annotated objects over, before it is prepared and trained on.

What it finds is what preparation leaves out: both read annotations and images by the same code.

Memory: the listing (about 150 bytes an image), 64 encoded images, and a bit for each object.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import Count, Fault, FaultList
from itpn_ray.data.doctor.images import check_files
from itpn_ray.data.doctor.raw import RawHealth
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.sources.annotated.base import AnnotatedSource, AnnotatedSplit
from itpn_ray.data.sources.annotated.objects import ObjectSet
from itpn_ray.data.sources.detect import open_source
from itpn_ray.data.store.manifest import MANIFEST
from itpn_ray.formatting import number_of
from itpn_ray.storage import open_store


@dataclass(frozen=True, kw_only=True)
class SplitContent:
    """One split: its annotation file, images, objects, classes, and usable masks."""

    file: str
    images: int
    objects: int
    classes: int
    masks: int


@dataclass(frozen=True, kw_only=True)
class SourceHealth(RawHealth):
    """A raw data set.

    Attributes:
        splits: by name.
        shapes: what objects may have besides their boxes, in words.
    """

    splits: dict[str, SplitContent]
    shapes: str

    def lines(self) -> Iterator[str]:
        """The findings in words."""
        yield self.uri
        for name, split in self.splits.items():
            masks = f"{split.masks:,} {self.shapes}" if split.masks else "without masks"
            yield (
                f"{name}: {split.file}, {number_of(split.images, 'image')}, "
                f"{number_of(split.objects, 'object')} of "
                f"{number_of(split.classes, 'class', 'classes')}, {masks}"
            )
        yield from self.verdict()


def annotated(uri: str, format: str = "auto") -> AnnotatedSource | None:
    """What reads the raw images with objects at a place; ``None`` for anything else there.

    Raises:
        DataError: nothing is there, or what is there cannot be read.
    """
    if format == "auto" and open_store(uri).exists(MANIFEST):
        return None
    _, source = open_source(PrepareConfig(source=uri, out="", format=format))
    return source if isinstance(source, AnnotatedSource) else None


def source_doctor(
    source: AnnotatedSource,
    faults: FaultList,
    *,
    threads: int = 4,
    count: Count = lambda done, total: None,
) -> SourceHealth:
    """Read every annotation and decode every image of a raw data set.

    Args:
        source: the data set, local or remote.
        faults: takes what is found.
        threads: images decoded at once.
        count: called with how many images are done.

    Raises:
        DataError: an annotation file cannot be read, or its images are nowhere.
    """
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
            objects, masks = _check_objects(split, _framed(file, frames), faults)
            splits[split] = SplitContent(
                file=file.name,
                images=len(file.rows),
                objects=objects,
                classes=len(file.categories),
                masks=masks,
            )
    shapes = "with turned boxes" if source.kind == "rotated" else "with masks"
    return SourceHealth(uri=source.uri, splits=splits, shapes=shapes, faults=faults)


def _framed(file: AnnotatedSplit, frames: NDArray[np.int32]) -> ObjectSet:
    """The objects of a split, with the sizes of images that only the images themselves tell.

    Args:
        file: the split.
        frames: (rows, 2) width and height of its images, 0 where an image cannot be used.
    """
    objects = file.objects
    # `image_ids` ascend, and all of the rows' ids are among them.
    at = np.searchsorted(objects.image_ids, file.rows.column("image_id").to_numpy())
    whole = objects.frames.copy()
    # Sizes from the annotation file win; the image's own fill what it does not tell.
    whole[at] = np.where(whole[at] > 0, whole[at], frames)
    return replace(objects, frames=whole)


def _check_objects(split: str, objects: ObjectSet, faults: FaultList) -> tuple[int, int]:
    """Look at every object; how many there are, and how many masks can be used."""
    number = usable = masks = 0
    for found in objects.examine():
        number += 1
        if isinstance(found, Fault):
            faults.add(split, found)
            continue
        usable += 1
        masks += bool(found.values["polygons"] or found.values["runs"])
        for remark in found.remarks:
            faults.add(split, remark)
    if not usable:
        reason = f"{split} has not one usable object"
        faults.add(split, Fault(file=objects.uri, entry="", kind=kinds.NO_OBJECT, reason=reason))
    return number, masks
