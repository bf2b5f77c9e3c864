import numpy as np
import pytest
import torch
from PIL import Image

from itpn_ray.evaluation.reconstruction import (
    from_patches,
    reconstruct,
    reconstruction_grid,
    to_patches,
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def perfect(images: torch.Tensor) -> torch.Tensor:
    """What a network that knows everything predicts: normalised pixels of each patch."""
    patches = to_patches(images, 16)
    mean, var = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (var + 1e-6).sqrt()


def test_patches_are_row_major_with_colour_last(images) -> None:
    patches = to_patches(images, 16)
    assert patches.shape == (2, 6, 768)
    # second row of patches, third column; pixel (5, 9) of it, green
    expected = images[1, 1, 16 + 5, 32 + 9]
    assert patches[1, 5, (5 * 16 + 9) * 3 + 1] == expected
    assert torch.equal(from_patches(patches, (32, 48), 16), images)


def test_a_perfect_prediction_brings_the_image_back(images) -> None:
    mask = torch.ones(2, 6, dtype=torch.bool)
    assert torch.allclose(reconstruct(images, mask, perfect(images)), images, atol=1e-5)


def test_only_masked_patches_are_predicted(images) -> None:
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 1] = True
    made = reconstruct(images, mask, torch.zeros(2, 6, 768))
    changed = to_patches((made - images).abs(), 16).amax(-1) > 1e-6
    assert torch.equal(changed, mask)
    # a prediction of 0 is the patch's own mean
    assert torch.allclose(made[0, :, :16, 16:32].mean(), images[0, :, :16, 16:32].mean())


def test_the_grid_shows_input_masked_and_reconstruction(images, tmp_path) -> None:
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[:, 0] = True
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.25])
    inputs = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    path = reconstruction_grid(
        inputs, mask, perfect(inputs), tmp_path / "new" / "grid.png", mean=mean, std=std
    )
    sheet = np.asarray(Image.open(path)).astype(int)
    assert sheet.shape == (2 * 32 + 4, 3 * 48 + 2 * 4, 3)
    real = (images[1].permute(1, 2, 0) * 255).round().numpy()
    row = slice(36, 68)
    assert abs(sheet[row, :48] - real).max() <= 1
    hidden = sheet[row, 52:100]
    assert (abs(hidden[:16, :16] - 127.5) <= 1).all()
    assert abs(hidden[:, 16:] - real[:, 16:]).max() <= 1
    assert abs(sheet[row, 104:] - real).max() <= 1
    assert (sheet[32:36] == 255).all()


def test_many_images_stand_two_in_a_row(tmp_path) -> None:
    images = torch.linspace(0, 1, 6).view(6, 1, 1, 1).expand(6, 3, 16, 16)
    mask = torch.zeros(6, 1, dtype=torch.bool)
    path = tmp_path / "grid.png"
    reconstruction_grid(images, mask, torch.zeros(6, 1, 768), path, mean=(0, 0, 0), std=(1, 1, 1))
    sheet = np.asarray(Image.open(path))
    strip = 3 * 16 + 2 * 4
    assert sheet.shape == (3 * 16 + 2 * 4, 2 * strip + 12, 3)
    corners = [
        int(sheet[row * 20, column * (strip + 12), 0]) for row in range(3) for column in (0, 1)
    ]
    assert corners == [0, 51, 102, 153, 204, 255]
