"""Checks encoded images: can they be decoded, and are they what is recorded of them?"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any

import pyarrow as pa

from itpn_ray.data.annotations.geometry import framed
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import Fault
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.reencode import ImageRules, RejectedError, reencode
from itpn_ray.data.sources.annotated.coco_entries import Frame
from itpn_ray.data.sources.base import Source
from itpn_ray.data.store.shards import Shard

_CHUNK = 64  # images whose bytes are in memory
# Preparation's rules without its resizing: what is judged is the image as it lies there.
_RULES = ImageRules(max_side=None, quality=90, max_pixels=PrepareConfig.max_pixels)


def check_files(source: Source, rows: pa.Table, pool: Executor) -> Iterator[Frame | Fault]:
    """Read and decode every image of a listing, as preparation does.

    Args:
        source: whose images they are.
        rows: the listing, with the sizes that annotations mean.
        pool: where they are decoded.

    Yields:
        For each row the size that its annotations mean, or why the image cannot be used.
    """
    for batch in rows.to_batches(max_chunksize=_CHUNK):
        # Read in this thread, decoded in the pool.
        files = list(source.read(pa.Table.from_batches([batch])))
        yield from pool.map(_check_file, batch.to_pylist(), files)


def _check_file(row: Mapping[str, Any], data: bytes | OSError) -> Frame | Fault:
    fault = partial(Fault, file=row["path"], entry=f"image {row['image_id']}")
    if isinstance(data, OSError):
        kind = kinds.FILE_MISSING if data.errno == errno.ENOENT else kinds.UNREADABLE
        return fault(kind=kind, reason=str(data.strerror))
    try:
        image = reencode(data, _RULES)
    except RejectedError as error:
        return fault(kind=kinds.UNREADABLE, reason=str(error))
    # Kept apart from decoding errors: the image itself is fine, its annotations mean another one.
    try:
        frame, _ = framed(row, image)
    except RejectedError as error:
        return fault(kind=kinds.WRONG_SIZE, reason=str(error))
    return frame


def check_shard(shard: Shard) -> Iterator[Fault]:
    """Decode every image of a shard, and compare its size with what the shard says."""
    for row in range(len(shard)):
        recorded = shard.fields(row, ("path", "width", "height"))
        fault = partial(Fault, file=recorded["path"], entry="")
        try:
            image = reencode(shard.image(row).tobytes(), _RULES)
        except RejectedError as error:
            yield fault(kind=kinds.UNREADABLE, reason=str(error))
            continue
        if (image.width, image.height) != (recorded["width"], recorded["height"]):
            sizes = (
                f"{image.width} x {image.height}, not {recorded['width']} x {recorded['height']}"
            )
            yield fault(kind=kinds.WRONG_SIZE, reason=f"has {sizes} pixels")
