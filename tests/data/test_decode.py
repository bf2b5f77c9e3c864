"""Decoding and cropping: the pixels that PIL and torchvision give."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from itpn_ray.data.decode import centre_crop, crop_resize, decode_rgb
from tests.data.made import jpeg, picture


def encoded(width: int = 90, height: int = 61) -> np.ndarray:
    return np.frombuffer(jpeg(picture(3, width, height)), np.uint8)


def test_decoding_gives_pils_pixels_with_channels_last_in_memory() -> None:
    decoded = decode_rgb(encoded())
    expected = np.asarray(Image.open(io.BytesIO(encoded().tobytes())).convert("RGB"))
    assert decoded.shape == (3, 61, 90)
    assert decoded.stride(0) == 1
    # The two libjpegs may round chroma upsampling differently.
    assert np.abs(decoded.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2


def test_a_grey_jpeg_becomes_rgb() -> None:
    decoded = decode_rgb(np.frombuffer(jpeg(picture(3, 20, 10).convert("L")), np.uint8))
    assert decoded.shape == (3, 10, 20)
    assert torch.equal(decoded[0], decoded[2])


def test_bytes_that_are_no_jpeg_raise() -> None:
    with pytest.raises(RuntimeError):
        decode_rgb(np.frombuffer(b"<html>not a picture</html>", np.uint8))


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_resize_equal_torchvisions(flip: bool) -> None:
    decoded = decode_rgb(encoded())
    ours = crop_resize(decoded, (5, 11, 40, 60), 32, flip)
    theirs = F.resized_crop(
        decoded, 5, 11, 40, 60, [32, 32], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    assert torch.equal(ours, theirs.flip(-1) if flip else theirs)


@pytest.mark.parametrize(("width", "height"), [(90, 61), (61, 90), (50, 50), (33, 200)])
def test_centre_crop_equals_resize_and_centre_crop_of_torchvision(width: int, height: int) -> None:
    decoded = decode_rgb(encoded(width, height))
    resized = F.resize(decoded, [36], interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(centre_crop(decoded, 32, 32 / 36), F.center_crop(resized, [32, 32]))
