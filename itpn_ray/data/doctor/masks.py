"""Looks a raw data set of images with masks over, and the masks of prepared shards.

What it finds in raw data is what preparation leaves out: both read images and masks by the same
code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileType

from itpn_ray.data.annotations.class_masks import MaskValues, class_pixels
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.balance import balance
from itpn_ray.data.doctor.fault_list import Count, Fault, FaultList
from itpn_ray.data.doctor.raw import RawHealth
from itpn_ray.data.loading.segmentation_loader import checked_mask
from itpn_ray.data.prepare.config import MASK_FORMATS, PrepareConfig
from itpn_ray.data.prepare.masks import mask_files, mask_of
from itpn_ray.data.prepare.reencode import ImageRules, RejectedError, reencode
from itpn_ray.data.sources.detect import open_masks
from itpn_ray.data.sources.masks.source import MaskSource, mask_format
from itpn_ray.data.store.shards import Shard
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of
from itpn_ray.storage import filesystem

_CHUNK = 64  # images whose bytes are in memory
# Preparation's rules without its resizing: what is judged is the image as it lies there.
_RULES = ImageRules(max_side=None, quality=90, max_pixels=PrepareConfig.max_pixels)
Pixels = Mapping[int, int]
"""Class -> pixels."""


@dataclass(frozen=True, kw_only=True)
class MaskHealth(RawHealth):
    """A raw data set of images with masks.

    Attributes:
        classes: names.
        images: of each split.
        pixels: of each class, by split.
    """

    classes: tuple[str, ...]
    images: Mapping[str, int]
    pixels: Mapping[str, Pixels]

    def lines(self) -> Iterator[str]:
        """The findings in words."""
        yield f"{self.uri}: images with masks of {number_of(len(self.classes), 'class', 'classes')}"
        for split, images in self.images.items():
            counts = [self.pixels[split].get(label, 0) for label in range(len(self.classes))]
            shares = balance(self.classes, counts)
            yield f"{split}: {number_of(images, 'image')}; of pixels {shares}"
        yield from self.verdict()


def mask_source(uri: str, format: str = "auto") -> MaskSource | None:
    """What reads the raw images with masks at a place; ``None`` for anything else there."""
    if format == "auto":
        fs, root = filesystem(uri)
        is_folder = fs.get_file_info(root).type == FileType.Directory
        format = mask_format(fs, root) if is_folder else ""
    if format not in MASK_FORMATS:
        return None
    return open_masks(format, PrepareConfig(source=uri, out="", format=format))


def mask_doctor(
    source: MaskSource,
    faults: FaultList,
    *,
    threads: int = 4,
    count: Count = lambda done, total: None,
) -> MaskHealth:
    """Decode every image and every mask of a raw data set.

    Args:
        source: the data set, local or remote.
        faults: takes what is found.
        threads: images decoded at once.
        count: told how many images are done.

    Raises:
        DataError: the layout is not understood.
    """
    listing = source.listing()
    assert listing.masks is not None
    for path, reason in listing.skipped:
        faults.add("", Fault(file=path, entry="", kind=kinds.WITHOUT_PARTNER, reason=reason))
    total = sum(len(rows) for rows in listing.splits.values())
    done = 0
    pixels: dict[str, Counter[int]] = {split: Counter() for split in listing.splits}
    with ThreadPoolExecutor(threads) as pool:
        for split, rows in listing.splits.items():
            for batch in rows.to_batches(max_chunksize=_CHUNK):
                table = pa.Table.from_batches([batch])
                # Masks are read by a listing of their own, in step with their images.
                files = zip(source.read(table), source.read(mask_files(table)), strict=True)
                examine = partial(_examine, listing.masks)
                for found in pool.map(examine, batch.to_pylist(), list(files)):
                    if isinstance(found, Fault):
                        faults.add(split, found)
                    else:
                        pixels[split].update(found)
                    done += 1
                    count(done, total)
    images = {split: len(rows) for split, rows in listing.splits.items()}
    return MaskHealth(
        uri=source.uri, classes=listing.classes, images=images, pixels=pixels, faults=faults
    )


def _examine(
    values: MaskValues, row: Mapping[str, Any], files: tuple[bytes | OSError, bytes | OSError]
) -> Pixels | Fault:
    """The pixels of each class in a mask, or why it or its image cannot be used."""
    data, mask = files
    fault = partial(Fault, file=row["path"], entry="")
    if isinstance(data, OSError):
        return fault(kind=kinds.UNREADABLE, reason=str(data.strerror))
    try:
        image = reencode(data, _RULES)
    except RejectedError as error:
        return fault(kind=kinds.UNREADABLE, reason=str(error))
    try:
        found = mask_of(row, mask, image, values, _RULES.max_pixels)
    except RejectedError as error:
        return fault(kind=kinds.MASK, reason=str(error))
    return class_pixels(found)


def check_masks_of(shard: Shard, classes: int) -> Iterator[Fault]:
    """Decode every mask of a prepared shard.

    Args:
        shard: of segmentation.
        classes: how many there are.
    """
    for row in range(len(shard)):
        entry = shard.fields(row, ("path", "mask", "width", "height"))
        fault = partial(Fault, file=entry["path"], entry="", kind=kinds.MASK)
        try:
            size = (entry["height"], entry["width"])
            mask = checked_mask(entry["mask"], size, entry["path"], classes)
        except DataError as error:
            yield fault(reason=f"{error.value}: {error.cause}" if error.value else error.cause)
            continue
        if np.all(mask < 0):
            yield fault(reason="its mask ignores every pixel")
