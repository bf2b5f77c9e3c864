"""Masks that give each pixel a class: as shards hold them, and as files of data sets mean them.

In memory a mask is (H, W) int16: a class, or -1 where a pixel is ignored. A shard holds it as a
grey PNG of the stored image's size, 0 where ignored and n + 1 for class n; of 8 bits where 255
classes are enough, else of 16.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from itpn_ray.data.prepare.reencode import RejectedError

IGNORED = -1
MOST_CLASSES = 32_767  # what int16 holds
Mask = NDArray[np.int16]
_LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM")


def encode_mask(mask: Mask) -> bytes:
    """The PNG that a shard holds."""
    # Shifted by one, for a PNG has no -1: its 0 stands for what is ignored.
    return png(mask.astype(np.int32) + 1)


def png(values: NDArray[np.integer[Any]]) -> bytes:
    """Numbers (H, W) from 0 to 65,535 as a grey PNG, of 8 bits where they fit."""
    # `initial` lets an empty mask pass.
    depth = np.uint8 if values.max(initial=0) < 256 else np.uint16
    out = io.BytesIO()
    Image.fromarray(values.astype(depth)).save(out, "PNG")
    return out.getvalue()


def decode_mask(data: bytes) -> Mask:
    """The inverse of `encode_mask`.

    Raises:
        OSError: the bytes are no PNG that can be decoded.
    """
    # A shard holds nothing but PNG, so damaged bytes are not offered to Pillow's other decoders.
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return (np.asarray(image).astype(np.int32) - 1).astype(np.int16)


@dataclass(frozen=True, kw_only=True)
class MaskValues:
    """What the values in the mask files of a data set mean.

    Attributes:
        values: ascending.
        classes: of each value, -1 where it is ignored.
        coding: what a value is: one of the "numbers" of classes, grey or as palette entries; one
            of "colours", 65,536 R + 256 G + B; the name of one of ADE20K's "objects",
            256 (R // 10) + G; or one of an image's own "segments", R + 256 G + 65,536 B.
    """

    values: tuple[int, ...]
    classes: tuple[int, ...]
    coding: str = "numbers"

    def read(self, data: bytes, max_pixels: int) -> Mask:
        """The classes of a mask file.

        Args:
            data: the whole file.
            max_pixels: larger masks are refused undecoded.

        Raises:
            RejectedError: it is no lossless image, too large, or has a value that means nothing.
        """
        found = _pixels(data, max_pixels, self.coding)
        known = np.array(self.values)
        # Above the last value searchsorted points past the
        # end; the comparison below tells it is strange.
        at = np.searchsorted(known, found).clip(max=len(known) - 1)
        strange = known[at] != found
        if strange.any():
            raise RejectedError(self._told(found, strange))
        return np.array(self.classes, dtype=np.int16)[at]

    def _told(self, found: NDArray[np.int32], strange: NDArray[np.bool_]) -> str:
        y, x = np.argwhere(strange)[0].tolist()
        value = int(found[y, x])
        colours = self.coding == "colours"
        shown = f"#{value:06x}" if colours else str(value)
        known = f"{len(self.values)} colours" if colours else _ranges(self.values)
        return (
            f"value {shown} at x = {x}, y = {y} is no class ({strange.sum():,} such pixels); "
            f"known are {known}"
        )


def class_pixels(mask: NDArray[np.integer[Any]]) -> dict[int, int]:
    """How many pixels of a mask each class has; classes without any are left out."""
    counts = np.bincount(mask[mask >= 0].astype(np.int64))
    return {label: int(count) for label, count in enumerate(counts) if count}


def segment_text(classes: Mapping[int, int]) -> str:
    """The segments of one image -> their classes, as text: ``NUMBER:CLASS NUMBER:CLASS``."""
    return " ".join(f"{number}:{classes[number]}" for number in sorted(classes))


def segment_values(text: str) -> MaskValues:
    """What the values of one image's mask mean, from `segment_text`; 0 is ignored."""
    pairs = [pair.partition(":") for pair in text.split()]
    classes = {0: IGNORED} | {int(number): int(label) for number, _, label in pairs}
    # `segment_text` writes ascending numbers, and 0 comes first.
    return MaskValues(values=tuple(classes), classes=tuple(classes.values()), coding="segments")


def _pixels(data: bytes, max_pixels: int, coding: str) -> NDArray[np.int32]:
    """The values of a mask file, (H, W)."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in _LOSSLESS:
                raise RejectedError(f"a {image.format} blurs classes; masks are PNG")
            if image.width * image.height > max_pixels:
                raise RejectedError(f"{image.width} x {image.height} pixels exceed {max_pixels}")
            return _READERS[coding](image)
    except (UnidentifiedImageError, Image.DecompressionBombError, MemoryError) as error:
        raise RejectedError(f"no image that can be read: {error}") from error
    except RejectedError:
        raise
    # Decoders raise nearly anything on broken files; see `reencode`.
    except Exception as error:
        raise RejectedError(f"broken: {error}") from error


def _channels(image: Image.Image) -> NDArray[np.int32]:
    """Red, green and blue, (3, H, W)."""
    return np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), -1, 0)


def _colours(image: Image.Image) -> NDArray[np.int32]:
    red, green, blue = _channels(image)
    return red << 16 | green << 8 | blue


def _objects(image: Image.Image) -> NDArray[np.int32]:
    red, green, _ = _channels(image)
    return red // 10 << 8 | green


def _segments(image: Image.Image) -> NDArray[np.int32]:
    red, green, blue = _channels(image)
    return red | green << 8 | blue << 16


def _numbers(image: Image.Image) -> NDArray[np.int32]:
    values = np.asarray(image)
    if values.ndim == 3:
        if (values[..., :3] != values[..., :1]).any():
            raise RejectedError("holds colours, not class numbers; name them with --palette")
        # Grey saved as RGB has three equal channels, and one of them is the number.
        values = values[..., 0]
    return values.astype(np.int32)


_READERS = {
    "numbers": _numbers,
    "colours": _colours,
    "objects": _objects,
    "segments": _segments,
}


def _ranges(values: tuple[int, ...]) -> str:
    """Ascending numbers in words: 0 to 149, 255."""
    # A step of more than one begins a new run.
    edges = np.flatnonzero(np.diff(values) > 1) + 1
    runs = np.split(np.array(values), edges)
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
