"""Decoding and cropping: the pixels that PIL and torchvision give."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from itpn_ray.data.loading import region_decoder
from itpn_ray.data.loading.decode import centre_crop, decode_box, decode_rgb, resize_square
from tests.data.made import jpeg, make_image


def encoded(width: int = 90, height: int = 61) -> np.ndarray:
    return np.frombuffer(jpeg(make_image(3, width, height)), np.uint8)


def test_decoding_gives_pils_pixels_with_channels_last_in_memory() -> None:
    decoded = decode_rgb(encoded())
    expected = np.asarray(Image.open(io.BytesIO(encoded().tobytes())).convert("RGB"))
    assert decoded.shape == (3, 61, 90)
    assert decoded.stride(0) == 1
    # The two libjpegs may round chroma upsampling differently.
    assert np.abs(decoded.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2


def test_a_grey_jpeg_becomes_rgb() -> None:
    decoded = decode_rgb(np.frombuffer(jpeg(make_image(3, 20, 10).convert("L")), np.uint8))
    assert decoded.shape == (3, 10, 20)
    assert torch.equal(decoded[0], decoded[2])


def test_bytes_that_are_no_jpeg_raise() -> None:
    with pytest.raises(RuntimeError):
        decode_rgb(np.frombuffer(b"<html>not an image</html>", np.uint8))


KINDS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_rows": 1},
}


def kinds_of_jpeg() -> dict[str, bytes]:
    """JPEGs of 90x61 pixels as they may lie in shards, one with an orientation that is past."""
    made = make_image(3, 90, 61)
    found = {name: jpeg(made, **options) for name, options in KINDS.items()}
    exif = Image.Exif()
    exif[0x0112] = 6
    return found | {"grey": jpeg(made.convert("L")), "turned": jpeg(made, exif=exif.tobytes())}


@pytest.mark.parametrize("way", ["part", "whole"])
def test_a_box_has_the_pixels_of_the_whole(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "whole":
        monkeypatch.setattr(region_decoder, "installed", lambda: False)
    elif sys.platform == "linux":
        assert region_decoder.installed()
    random = np.random.default_rng(0)
    for name, data in kinds_of_jpeg().items():
        image = np.frombuffer(data, np.uint8)
        whole = decode_rgb(image)
        for _ in range(20):
            top, left = (int(random.integers(limit)) for limit in (61, 90))
            height, width = int(random.integers(61 - top)) + 1, int(random.integers(90 - left)) + 1
            size, part = decode_box(image, (top, left, height, width))
            assert size == (61, 90)
            expected = whole[:, top : top + height, left : left + width]
            assert torch.equal(part, expected), (name, top, left, height, width)


@pytest.mark.parametrize("way", ["part", "whole"])
def test_a_box_of_broken_data_is_an_error(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "whole":
        monkeypatch.setattr(region_decoder, "installed", lambda: False)
    with pytest.raises(RuntimeError):
        decode_box(np.frombuffer(b"<html>not an image</html>", np.uint8), (0, 0, 5, 5))
    cut = encoded()[: len(encoded()) // 2]
    with pytest.raises(RuntimeError, match="truncated"):
        decode_box(cut, (50, 10, 10, 10))


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_resize_equal_torchvisions(flip: bool) -> None:
    decoded = decode_rgb(encoded())
    _, part = decode_box(encoded(), (5, 11, 40, 60))
    ours = resize_square(part, 32, flip)
    theirs = F.resized_crop(
        decoded, 5, 11, 40, 60, [32, 32], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    assert torch.equal(ours, theirs.flip(-1) if flip else theirs)
    assert ours.stride() == (1, 3 * 32, 3)


@pytest.mark.parametrize(("width", "height"), [(90, 61), (61, 90), (50, 50), (33, 200)])
def test_centre_crop_equals_resize_and_centre_crop_of_torchvision(width: int, height: int) -> None:
    decoded = decode_rgb(encoded(width, height))
    resized = F.resize(decoded, [36], interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(centre_crop(decoded, 32, 32 / 36), F.center_crop(resized, [32, 32]))
