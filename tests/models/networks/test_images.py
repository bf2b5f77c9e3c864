from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from itpn_ray.errors import DataError
from itpn_ray.models.networks.images import normalise_pixels, read_images, read_pixels


def test_the_middle_square_is_taken(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (read_pixels(tmp_path / "wide.png", 20) == (255, 0, 0)).all()


def test_images_are_turned_upright(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter: what is above comes to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = read_pixels(tmp_path / "turned.png", 16)
    assert (upright[:, 8:] == 200).all()
    assert (upright[:, :8] == 0).all()


def test_pixels_are_normalised_by_channel():
    images = normalise_pixels(np.full((1, 4, 4, 3), 255, np.uint8))
    expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(images[0, :, 0, 0], expected)


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    for name in ("page.png", "absent.png"):
        with pytest.raises(DataError, match=name):
            read_images([tmp_path / name], 16)
