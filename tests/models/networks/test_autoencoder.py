from __future__ import annotations

import pytest
import torch

from itpn_ray.errors import DataError
from itpn_ray.models import create_autoencoder
from itpn_ray.models.networks.autoencoder import (
    masked_pixel_loss,
    normalise_patches,
    patch_pixels,
    visible_patches,
)
from tests.models.learning import train_until
from tests.models.networks.patches import unpatch_pixels


def random_mask(batch: int, tokens: int, visible: int) -> torch.Tensor:
    order = torch.rand(batch, tokens).argsort(1)
    return torch.ones(batch, tokens, dtype=torch.bool).scatter(1, order[:, :visible], False)


@pytest.mark.parametrize("name", ["nano", "itpn_base"])
def test_masked_pixels_reach_the_loss_only_as_targets(name):
    torch.manual_seed(0)
    model = create_autoencoder(name, image_size=64, depths=(1, 1, 1), width=64, heads=2).eval()
    images, mask = torch.randn(2, 3, 64, 64), random_mask(2, 16, 4)
    with torch.no_grad():
        before = model(images, mask)
        noise = torch.randn(2, 16, 768) * mask[..., None]
        after = model(unpatch_pixels(patch_pixels(images) + noise, (4, 4)), mask)
    torch.testing.assert_close(before["pred"], after["pred"])
    assert before["loss"] != after["loss"]
    for stride, side in ((4, 4), (8, 2), (16, 1)):
        assert before["pyramid"][stride].shape[:4] == (2, 4, side, side)
    assert [stage.shape[1] for stage in before["stages"]] == [4, 4, 4]


def test_visible_patches_can_be_given():
    torch.manual_seed(0)
    model = create_autoencoder("nano", image_size=64).eval()
    images, mask = torch.randn(2, 3, 64, 64), random_mask(2, 16, 5)
    visible = visible_patches(mask)
    shuffled = visible[:, torch.randperm(5)]
    expected = model(images, mask)
    for given in (visible, shuffled):
        out = model(images, mask, visible=given)
        torch.testing.assert_close(out["pred"], expected["pred"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out["loss"], expected["loss"], rtol=1e-4, atol=1e-5)


def test_other_image_sizes_resize_both_positions():
    model = create_autoencoder("nano", image_size=64).eval()
    out = model(torch.randn(1, 3, 32, 96), random_mask(1, 12, 3))
    assert out["pred"].shape == (1, 12, 768)


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = create_autoencoder("nano", image_size=64)
    model(torch.randn(2, 3, 64, 64), random_mask(2, 16, 4))["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_pixels_of_a_patch_are_ordered_row_column_channel():
    images = torch.arange(2 * 3 * 32 * 48.0).view(2, 3, 32, 48)
    patches = patch_pixels(images)
    assert patches.shape == (2, 6, 768)
    row, column, channel = 5, 7, 2
    number = (row * 16 + column) * 3 + channel
    assert patches[1, 4, number] == images[1, channel, 16 + row, 16 + column]
    assert torch.equal(unpatch_pixels(patches, (2, 3)), images)


def test_the_loss_by_hand():
    torch.manual_seed(0)
    images, pred = torch.randn(2, 3, 32, 32), torch.randn(2, 4, 768)
    mask = torch.tensor([[True, False, True, True], [False, True, True, True]])
    target = patch_pixels(images)
    target = (target - target.mean(-1, keepdim=True)) / target.std(-1, keepdim=True)
    expected = (pred - target).square()[mask].mean()
    torch.testing.assert_close(masked_pixel_loss(pred, images, mask), expected, rtol=1e-4, atol=0)


def test_a_patch_of_one_colour_has_a_target():
    assert torch.equal(normalise_patches(torch.full((1, 1, 768), 0.5)), torch.zeros(1, 1, 768))


@pytest.mark.parametrize(
    "mask", [[[True, False], [False, False]], [[True, True], [True, True]]], ids=["uneven", "all"]
)
def test_masks_that_make_no_batch_are_refused(mask):
    with pytest.raises(DataError, match="visible patches"):
        visible_patches(torch.tensor(mask))


@pytest.mark.rounding
def test_a_few_steps_reduce_the_loss():
    torch.manual_seed(0)
    model = create_autoencoder("nano", image_size=32)
    images = torch.randn(8, 3, 2, 2).repeat_interleave(16, 2).repeat_interleave(16, 3)
    images = images + torch.linspace(0, 1, 32)[None, None, :, None]
    mask = random_mask(8, 4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses: list[float] = []

    def step(number: int) -> None:
        loss = model(images, mask)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    train_until(lambda: losses[-1] < 0.7 * losses[0], step, most=100)
