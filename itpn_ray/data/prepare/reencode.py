"""From the bytes of any image file to a JPEG that every later step can trust.

Shards hold nothing but 8-bit RGB or grey JPEGs, upright and of bounded size: torchvision decodes
these fast and safely, while its PNG decoder can crash the process on a broken file. So a JPEG that
is fine keeps its bytes, and everything else is decoded by Pillow and written anew as JPEG.

What an image means, where formats leave it open:

- EXIF (or XMP) orientation is applied; values outside 1..8 count as 1.
- 16-bit grey is scaled to 8 bits; floating-point and 32-bit pixels have no agreed range and go to
  quarantine.
- Transparent parts are laid over white, as image viewers show them.
- Of an animation, or a file with several pages, the first counts.
- CMYK becomes RGB by Pillow's plain formula, LAB through its ICC profile (D50 to sRGB); embedded
  colour profiles of RGB images are ignored, as all common training pipelines do.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from itpn_ray.data.prepare.jpeg_header import is_plain_jpeg

T = TypeVar("T")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
# libjpeg's own limit to a side.
_LONGEST_SIDE = 65_500
# Of images written anew in full size: what was exact should stay nearly so.
_FULL_QUALITY = 95
_ORIENTATION = 0x0112
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class RejectedError(Exception):
    """An image that cannot be used; the message says why, for the quarantine table."""


@dataclass(frozen=True, kw_only=True)
class ImageRules:
    """How images are stored: see the fields of the same names in PrepareConfig."""

    max_side: int | None
    quality: int
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """An image ready for a shard.

    Attributes:
        data: JPEG bytes.
        width: pixels.
        height: pixels.
        kept: whether the bytes are the file's own.
        source_size: upright (width, height) before shrinking.
        turn: the orientation applied (1: none), so that annotations can follow.
        histogram: (3, 256) int64, pixels of each value of R, G, B, where it was asked for.
    """

    data: bytes
    width: int
    height: int
    kept: bool
    source_size: tuple[int, int]
    turn: int
    histogram: NDArray[np.int64] | None


def reencode(data: bytes, rules: ImageRules, *, measured: bool = False) -> EncodedImage:
    """Check an image file, decode it once, and return what the shard shall hold.

    Args:
        data: the whole file.
        rules: limits and quality.
        measured: count its pixel values too (a kept JPEG is otherwise decoded at an eighth of its
            size only, which checks all of its data at half the cost).

    Raises:
        RejectedError: it is not an image, too large, truncated or broken.
    """
    return _opened(data, lambda image: _normalise(image, data, rules, measured))


def _opened(data: bytes, work: Callable[[Image.Image], T]) -> T:
    """What `work` makes of the image in a file.

    Raises:
        RejectedError: it is not an image, too large, truncated or broken.
    """
    if not data:
        raise RejectedError("the file is empty")
    Image.init()  # all of Pillow's readers; at once after the first call
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; sizes are checked here
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return work(image)
        except Image.DecompressionBombError as error:
            raise RejectedError(f"too many pixels: {error}") from error
        except UnidentifiedImageError as error:
            raise RejectedError(_what_else(data)) from error
        except MemoryError as error:
            raise RejectedError("decoding it takes more memory than there is") from error
        except RejectedError:
            raise
        # Decoders raise nearly anything on broken files (OSError, SyntaxError, struct.error,
        # ValueError, IndexError, ...): whatever it is, it belongs into the quarantine table.
        except Exception as error:
            raise RejectedError(f"broken {_format_of(data)}: {error}") from error


def _check(image: Image.Image, data: bytes, rules: ImageRules) -> None:
    """Refuse an opened image that is too large or, as its checksums say, broken."""
    width, height = image.size
    if width * height > rules.max_pixels:
        raise RejectedError(f"{width} x {height} pixels are more than {rules.max_pixels}")
    if image.format == "PNG":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as checked:
            checked.verify()  # the checksums, which decoding does not look at


def _normalise(image: Image.Image, data: bytes, rules: ImageRules, measured: bool) -> EncodedImage:
    _check(image, data, rules)
    width, height = image.size
    turn = orientation(image)
    shrink = rules.max_side is not None and max(width, height) > rules.max_side
    # Its own bytes: encoding anew would cost time and a little quality.
    if turn == 1 and not shrink and _keeps(image, data):
        # At an eighth of its size libjpeg reads all of the data, but transforms little of it.
        if not measured:
            image.draft(image.mode, (1, 1))
        image.load()
        size = (width, height)
        return EncodedImage(
            data=data,
            width=width,
            height=height,
            kept=True,
            source_size=size,
            turn=1,
            histogram=histogram_of(image) if measured else None,
        )
    upright, turn = _upright(image, rules)
    if max(upright.size) > _LONGEST_SIDE:
        raise RejectedError(f"a side of {max(upright.size)} pixels does not fit into a JPEG")
    # Orientations from 5 on exchange width and height.
    if turn >= 5:
        width, height = height, width
    return EncodedImage(
        data=_shrunk_jpeg(upright, rules.quality) if shrink else encode_full(upright),
        width=upright.width,
        height=upright.height,
        kept=False,
        source_size=(width, height),
        turn=turn,
        histogram=histogram_of(upright) if measured else None,
    )


def _keeps(image: Image.Image, data: bytes) -> bool:
    """Whether an upright image's own bytes can be stored."""
    return image.mode in ("RGB", "L") and is_plain_jpeg(data)


def decode_upright(
    data: bytes, rules: ImageRules, *, measured: bool = False
) -> tuple[Image.Image, EncodedImage]:
    """Check an image file and decode it, to be cut into tiles.

    Returns:
        The image, upright and shrunk where `rules` say so; and what `reencode` would return of it,
        for annotations to follow, but without bytes where these are not the file's own.

    Raises:
        RejectedError: as `reencode`.
    """
    return _opened(data, lambda image: _decoded(image, data, rules, measured))


def _decoded(
    image: Image.Image, data: bytes, rules: ImageRules, measured: bool
) -> tuple[Image.Image, EncodedImage]:
    _check(image, data, rules)
    width, height = image.size
    upright, turn = _upright(image, rules)
    kept = turn == 1 and upright.size == (width, height) and _keeps(image, data)
    return upright, EncodedImage(
        data=data if kept else b"",
        width=upright.width,
        height=upright.height,
        kept=kept,
        source_size=(height, width) if turn >= 5 else (width, height),
        turn=turn,
        histogram=histogram_of(upright) if measured else None,
    )


def _upright(image: Image.Image, rules: ImageRules) -> tuple[Image.Image, int]:
    """An opened image as it is stored, and the orientation that was applied."""
    turn = orientation(image)
    target = image.size
    if rules.max_side is not None and max(image.size) > rules.max_side:
        target = _shrunk(image.size, rules.max_side)
        # Twice the target, so that the bicubic filter still has pixels to average.
        image.draft(None, (2 * target[0], 2 * target[1]))
    upright = to_rgb(image)
    # Shrunk before it is turned: turning moves the fewer pixels.
    if upright.size != target:
        upright = upright.resize(target, Image.Resampling.BICUBIC)
    return (upright if turn == 1 else upright.transpose(_TURN[turn])), turn


def _shrunk_jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def encode_full(image: Image.Image) -> bytes:
    """An image written anew in its full size, as JPEG."""
    out = io.BytesIO()
    # 4:4:4, for PNGs of drawings and text have sharp edges of colour.
    image.save(out, "JPEG", quality=_FULL_QUALITY, subsampling="4:4:4")
    return out.getvalue()


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 that is still to be applied; 1 where there is none that makes sense.

    Raises:
        OSError: anything but a JPEG is decoded for it, which may fail as decoders do.
    """
    # Asking a PNG for its EXIF decodes it, and a failure must not pass for broken EXIF below.
    if image.format not in ("JPEG", "MPO"):
        image.load()
    if image.format == "TIFF":  # turned by decoding
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    # Broken EXIF raises nearly anything; the image itself may be fine.
    except Exception:
        return 1
    return found if found in _TURN else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as 8-bit RGB, or grey where it was grey."""
    image.load()
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_16_bits(np.asarray(image))
    # Pillow opens some files of 16 bits in 32.
    if mode == "I" and image.format in ("PNG", "PPM"):
        return _from_16_bits(np.asarray(image))
    if mode in ("I", "F"):
        raise RejectedError("32-bit pixels, whose range is not known")
    if mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None
        return converted
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if mode in ("RGB", "L") else image.convert("RGB")


def _from_16_bits(values: NDArray[np.generic]) -> Image.Image:
    # 65,535 / 255 = 257.
    scaled = np.clip(values.astype(np.int32), 0, 65_535) / 257
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def histogram_of(image: Image.Image) -> NDArray[np.int64]:
    """(3, 256) int64, pixels of each value of R, G, B."""
    return np.array(image.convert("RGB").histogram()).reshape(3, 256)  # (768,) -> (3, 256)


def _shrunk(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """``size`` scaled so that its longer side is ``max_side``; no side below one pixel."""
    assert max_side is not None
    scale = max_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _format_of(data: bytes) -> str:
    known = {b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"GI": "GIF", b"BM": "BMP", b"RI": "WebP"}
    return known.get(data[:2], "image")


def _what_else(data: bytes) -> str:
    """Why Pillow does not know a file, as far as its first bytes tell."""
    # A short look at the head: failed downloads are mostly pages that say so.
    head = data[:256].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"<body")):
        return "a web page or XML, not an image"
    if _format_of(data) != "image":
        return f"broken {_format_of(data)}: its header cannot be read"
    return f"not an image in a known format ({', '.join(FORMATS)})"
