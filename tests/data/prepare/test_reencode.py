from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from itpn_ray.data.prepare.reencode import EncodedImage, ImageRules, RejectedError, reencode
from tests.data.made import jpeg, make_image

RULES = ImageRules(max_side=None, quality=90, max_pixels=2**26)
WIDTH, HEIGHT = 96, 64
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How viewers show a stored image with each EXIF orientation, from the EXIF standard's table."""

BASE = make_image(3, WIDTH, HEIGHT)
GREY = BASE.convert("L")


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, name, **options)
    return out.getvalue()


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(BASE, "JPEG", quality=95, exif=exif)


def png(width: int, height: int, kind: int, depth: int, *lines: bytes) -> bytes:
    """A PNG of raw scan lines, packed one by one so that even a bomb takes little memory here."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    pack = zlib.compressobj(6)
    body = b"".join(map(pack.compress, lines)) + pack.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png_16_bits(values: NDArray[np.uint16]) -> bytes:
    """Grey (H, W) or RGB (H, W, 3) with 16 bits a channel."""
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return png(values.shape[1], values.shape[0], 0 if values.ndim == 2 else 2, 16, lines)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def pixels(data: bytes) -> NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64)


def off(found: EncodedImage, expected: Image.Image) -> float:
    """Mean absolute difference of pixel values."""
    right = np.asarray(expected.convert("RGB"), dtype=np.float64)
    assert (found.width, found.height) == expected.size
    assert pixels(found.data).shape == right.shape
    return float(np.abs(pixels(found.data) - right).mean())


KEPT = {
    "baseline": jpeg(BASE),
    "progressive": saved(BASE, "JPEG", progressive=True),
    "grey": jpeg(GREY),
    "full colour": saved(BASE, "JPEG", subsampling="4:4:4"),
    "quarter colour": saved(BASE, "JPEG", subsampling="4:1:1"),
    "restart markers": saved(BASE, "JPEG", restart_marker_blocks=2),
    "bytes after the end": jpeg(BASE) + b"\0" * 5000,
    "orientation 0": with_orientation(0),
    "orientation 1": with_orientation(1),
    "orientation 9": with_orientation(9),
    "one pixel": jpeg(BASE.crop((0, 0, 1, 1))),
    "4000 x 3": jpeg(BASE.resize((4000, 3))),
    "broken EXIF": jpeg(BASE)[:2]
    + b"\xff\xe1\x00\x10Exif\0\0MM\0*\xff\xff\xff\xff"
    + jpeg(BASE)[2:],
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", KEPT)
def test_a_fine_jpeg_keeps_its_bytes(name: str) -> None:
    found = reencode(KEPT[name], RULES)
    assert found.kept
    assert found.data == KEPT[name]
    assert (found.width, found.height) == Image.open(io.BytesIO(KEPT[name])).size


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", KEPT)
def test_the_loader_decodes_what_was_kept(name: str) -> None:
    encoded = torch.frombuffer(bytearray(KEPT[name]), dtype=torch.uint8)
    decoded = decode_jpeg(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()  # (H, W, 3)
    assert np.abs(decoded - pixels(KEPT[name])).mean() < 0.5


def lab() -> bytes:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(BASE, *profiles, outputMode="LAB")
    assert image is not None
    return saved(image, "TIFF")


def transparent(mode: str) -> tuple[bytes, Image.Image]:
    """An image whose left half is transparent, and how it looks on white."""
    image = (GREY if mode == "LA" else BASE).copy()
    alpha = Image.new("L", BASE.size, 255)
    alpha.paste(0, (0, 0, WIDTH // 2, HEIGHT))
    shown = image.copy()
    shown.paste("white" if mode != "LA" else 255, (0, 0, WIDTH // 2, HEIGHT))
    image.putalpha(alpha)
    return saved(image, "PNG"), shown


def animated(name: str) -> bytes:
    return saved(BASE, name, save_all=True, append_images=[Image.new("RGB", BASE.size)] * 2)


WRITTEN_ANEW = {
    "PNG": (saved(BASE, "PNG"), BASE),
    "PNG, interlaced nothing, palette": (saved(BASE.quantize(200), "PNG"), BASE.quantize(200)),
    "PNG, two colours": (saved(BASE.convert("1"), "PNG"), BASE.convert("1")),
    "PNG, grey": (saved(GREY, "PNG"), GREY),
    "PNG, RGBA": transparent("RGBA"),
    "PNG, LA": transparent("LA"),
    "PNG, 16 bits grey": (png_16_bits(np.asarray(GREY).astype(np.uint16) * 257), GREY),
    "PNG, 16 bits RGB": (png_16_bits(np.asarray(BASE).astype(np.uint16) * 257), BASE),
    "TIFF, 16 bits grey": (
        saved(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "TIFF"),
        GREY,
    ),
    "WebP": (saved(BASE, "WEBP", lossless=True), BASE),
    "BMP": (saved(BASE, "BMP"), BASE),
    "TIFF": (saved(BASE, "TIFF"), BASE),
    "TIFF, LAB": (lab(), BASE),
    "GIF": (saved(BASE.quantize(200), "GIF"), BASE.quantize(200)),
    "GIF, animated": (animated("GIF"), BASE.quantize()),
    "PNG, animated": (animated("PNG"), BASE),
    "WebP, animated": (animated("WEBP"), BASE),
    "TIFF of several pages": (animated("TIFF"), BASE),
    "JPEG 2000": (saved(BASE, "JPEG2000"), BASE),
    "AVIF": (saved(BASE, "AVIF", quality=95), BASE),
    "JPEG, CMYK": (saved(BASE.convert("CMYK"), "JPEG", quality=98), BASE),
}


@pytest.mark.parametrize("name", WRITTEN_ANEW)
def test_other_images_become_jpegs_of_the_same_pixels(name: str) -> None:
    data, expected = WRITTEN_ANEW[name]
    found = reencode(data, RULES)
    assert not found.kept
    assert found.data[:2] == b"\xff\xd8"
    assert off(found, expected) < 3.5


def test_orientation_is_not_applied_twice() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = saved(BASE, "TIFF", exif=exif)
    assert off(reencode(data, RULES), BASE.transpose(Image.Transpose.ROTATE_180)) < 3.5


def test_ycck_jpeg() -> None:
    # A CMYK file is one of YCCK where the Adobe marker says transform 2: its first three channels
    # are then Y, Cb, Cr of 255 - C, 255 - M, 255 - Y. Pillow stores channels inverted, as Adobe.
    inks = Image.merge("CMYK", [*BASE.split(), Image.new("L", BASE.size, 0)])  # C, M, Y, no K
    luma = Image.merge("RGB", inks.split()[:3]).convert("YCbCr")
    channels = [Image.eval(channel, lambda value: 255 - value) for channel in luma.split()]
    stored = Image.merge("CMYK", [*channels, inks.split()[3]])
    data = bytearray(saved(stored, "JPEG", quality=98))
    data[data.index(b"Adobe") + 11] = 2
    assert off(reencode(bytes(data), RULES), Image.eval(BASE, lambda value: 255 - value)) < 3.5


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_applied(value: int) -> None:
    data = with_orientation(value)
    found = reencode(data, RULES)
    right = BASE.transpose(UPRIGHT[value]) if value > 1 else BASE
    assert off(found, right) < 3.5
    assert found.turn == value
    assert found.source_size == right.size
    again = reencode(found.data, RULES)
    assert again.kept  # nothing in it asks for another turn


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_of_other_formats(name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(BASE, name, exif=exif, **({"lossless": True} if name == "WEBP" else {}))
    assert off(reencode(data, RULES), BASE.transpose(UPRIGHT[6])) < 3.5


def test_shrinks_the_longer_side() -> None:
    large = make_image(1, 700, 500)
    rules = ImageRules(max_side=256, quality=90, max_pixels=2**26)
    for data in (jpeg(large), saved(large, "PNG"), saved(large, "JPEG", progressive=True)):
        found = reencode(data, rules)
        assert (found.width, found.height) == (256, 183)
        assert found.source_size == (700, 500)
        assert off(found, large.resize((256, 183), Image.Resampling.BICUBIC)) < 3.5
    small = jpeg(BASE)
    assert reencode(small, rules).data == small


def test_shrinks_and_turns() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(make_image(1, 700, 500), "JPEG", exif=exif)
    found = reencode(data, ImageRules(max_side=256, quality=90, max_pixels=2**26))
    assert (found.width, found.height, found.source_size) == (183, 256, (500, 700))


def test_a_line_keeps_a_pixel_of_width() -> None:
    data = jpeg(BASE.resize((4000, 3)))
    found = reencode(data, ImageRules(max_side=100, quality=90, max_pixels=2**26))
    assert (found.width, found.height) == (100, 1)


@pytest.mark.parametrize("data", [jpeg(BASE), jpeg(GREY), saved(BASE, "PNG")])
def test_the_histogram_is_that_of_the_stored_image(data: bytes) -> None:
    found = reencode(data, RULES, measured=True)
    assert found.histogram is not None
    np.testing.assert_array_equal(found.histogram.sum(axis=1), WIDTH * HEIGHT)
    means = found.histogram @ np.arange(256) / (WIDTH * HEIGHT)
    np.testing.assert_allclose(means, pixels(found.data).mean(axis=(0, 1)), atol=1)
    assert reencode(data, RULES).data == found.data


REJECTED = {
    "empty": (b"", "empty"),
    "web page": (b"<!DOCTYPE html><title>404</title>", "web page"),
    "random": (bytes(range(256)) * 8, "not an image"),
    "start of a JPEG only": (b"\xff\xd8", "broken JPEG"),
    "half a JPEG": (jpeg(BASE)[: len(jpeg(BASE)) // 2], "truncated"),
    "JPEG without its last bytes": (jpeg(BASE)[:-60], "truncated"),
    "half a PNG": (saved(BASE, "PNG")[:300], "broken PNG"),
    "PNG with a byte too many": (
        saved(BASE, "PNG").replace(b"IDAT", b"IDAT\x01", 1),
        "broken PNG",
    ),
    "PNG with a flipped bit": (flipped(saved(BASE, "PNG"), 300), "broken PNG"),
    "floating point": (saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "32-bit"),
    "an unsupported format": (saved(BASE.convert("RGB"), "ICO"), "not an image in a known format"),
    "bomb of 4 billion pixels": (png(65_536, 65_536, 0, 1, b"\0" * 1000), "pixels"),
    "one pixel too many": (png(8193, 8192, 0, 1, b"\0" * 1000), "8193 x 8192"),
    "a side that no JPEG has": (png(1, 70_000, 0, 1, b"\0\0" * 70_000), "70000"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_the_rest_is_rejected_with_a_reason(name: str) -> None:
    data, reason = REJECTED[name]
    with pytest.raises(RejectedError, match=reason) as caught:
        reencode(data, RULES)
    assert "0x" not in str(caught.value)  # the same words in each run


def test_a_bomb_is_not_allocated() -> None:
    # The PNG is whole: decoding it takes 1.6 GB; the limit leaves room for 400 MB.
    code = """
import resource, sys
from itpn_ray.data.prepare.reencode import ImageRules, RejectedError, reencode
data = sys.stdin.buffer.read()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)
try:
    reencode(data, ImageRules(max_side=64, quality=90, max_pixels=2**26))
except RejectedError as error:
    print(error)
"""
    bomb = png(40_000, 40_000, 0, 1, *[b"\0" * 5_001] * 40_000)
    done = subprocess.run(
        [sys.executable, "-c", code], input=bomb, capture_output=True, check=True, timeout=300
    )
    assert b"too many pixels" in done.stdout


def test_memory_that_is_not_there_is_a_reason() -> None:
    code = """
import resource, sys
from itpn_ray.data.prepare.reencode import ImageRules, RejectedError, reencode
data = sys.stdin.buffer.read()
reencode(data, ImageRules(max_side=64, quality=90, max_pixels=2**26))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (30 << 20),) * 2)
try:
    reencode(data, ImageRules(max_side=64, quality=90, max_pixels=2**26))
except RejectedError as error:
    print(error)
"""
    large = png(8000, 8000, 0, 8, *[b"\0" * 8_001] * 8000)
    done = subprocess.run(
        [sys.executable, "-c", code], input=large, capture_output=True, check=True, timeout=300
    )
    assert b"memory" in done.stdout
