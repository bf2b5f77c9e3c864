"""Turns the mask file of an image into what a shard holds beside the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from itpn_ray.data.annotations.class_masks import Mask, MaskValues, segment_values
from itpn_ray.data.annotations.geometry import follow_mask
from itpn_ray.data.prepare.reencode import EncodedImage, RejectedError
from itpn_ray.data.sources.reading import WHOLE_FILE


def mask_files(rows: pa.Table) -> pa.Table:
    """A listing of the masks in the place of their images."""
    # Masks are files of their own, read whole.
    sizes = pa.array([WHOLE_FILE] * len(rows), pa.int64())
    starts = pa.array([0] * len(rows), pa.int64())
    return pa.table({"file": rows.column("mask_file"), "offset": starts, "size": sizes})


def mask_of(
    row: Mapping[str, Any],
    data: bytes | OSError,
    image: EncodedImage,
    values: MaskValues,
    max_pixels: int,
) -> Mask:
    """The classes of a stored image's pixels.

    Args:
        row: of the listing: ``mask_path``, for the error, and the image's own ``mask_segments``.
        data: the mask file, or why it cannot be read.
        image: what became of the image, which the mask follows.
        values: what the files' values mean, where images have no segments of their own.
        max_pixels: larger masks are refused.

    Raises:
        RejectedError: the mask cannot be used, has another size, or ignores every pixel.
    """
    try:
        if isinstance(data, OSError):
            raise RejectedError(str(data.strerror))
        own = segment_values(row["mask_segments"]) if row["mask_segments"] else values
        mask = follow_mask(own.read(data, max_pixels), image)
        if (mask < 0).all():
            raise RejectedError("ignores every pixel")
    except RejectedError as error:
        raise RejectedError(f"its mask {row['mask_path']}: {error}") from error
    return mask
