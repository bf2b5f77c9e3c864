from __future__ import annotations

import pytest
import torch

from itpn_ray.models import create_distiller
from itpn_ray.models.networks.autoencoder import patch_pixels
from tests.models.networks.patches import unpatch_pixels


def make(name="nano", **changes):
    return create_distiller(
        name, teacher_dim=24, image_size=64, width=64, heads=2, depths=(1, 1, 5), **changes
    )


@pytest.mark.parametrize("name", ["nano", "itpn_base"])
def test_outputs_have_the_promised_shapes_and_everything_learns(name):
    torch.manual_seed(0)
    model = make(name, relative_position=name == "itpn_base")
    mask = torch.rand(2, 16) < 0.4
    out = model(torch.randn(2, 3, 64, 64), mask)
    assert out["main"].shape == out["aux"].shape == (2, 16, 24)
    assert out["pyramid"][4].shape[:4] == (2, 16, 4, 4)
    (out["main"].square().sum() + out["aux"].square().sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_masked_patches_reach_stage_3_as_the_mask_token():
    """The auxiliary branch, which has no lateral path, cannot see what is masked."""
    torch.manual_seed(0)
    model = make().eval()
    images, mask = torch.randn(1, 3, 64, 64), torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5:9] = True
    noise = torch.randn(1, 16, 768) * mask[..., None]
    other = unpatch_pixels(patch_pixels(images) + noise, (4, 4))
    before, after = model(images, mask), model(other, mask)
    torch.testing.assert_close(before["aux"], after["aux"])
    visible = ~mask[0]
    torch.testing.assert_close(before["main"][0, visible], after["main"][0, visible])
    assert not torch.allclose(before["main"][0, mask[0]], after["main"][0, mask[0]])


def test_the_branch_leaves_at_three_quarters():
    torch.manual_seed(0)
    model = make().eval()  # five blocks: the branch leaves after block 3
    images, mask = torch.randn(1, 3, 64, 64), torch.zeros(1, 16, dtype=torch.bool)
    before = model(images, mask)
    torch.nn.init.normal_(model.trunk.stage3[4].mlp.w3.weight)
    last = model(images, mask)
    torch.testing.assert_close(before["aux"], last["aux"])
    assert not torch.allclose(before["main"], last["main"])
    torch.nn.init.normal_(model.trunk.stage3[3].mlp.w3.weight)
    assert not torch.allclose(before["aux"], model(images, mask)["aux"])


def test_drop_noise_has_columns_for_the_branch():
    torch.manual_seed(0)
    model = make(drop_path=0.5).train()
    images, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 16, dtype=torch.bool)
    noise = torch.full((2, model.num_drops), 0.999)
    assert model.num_drops == model.trunk.num_drops + 4
    before = model(images, mask, drop_noise=noise)
    noise[1, -1] = 0.0
    after = model(images, mask, drop_noise=noise)
    torch.testing.assert_close(before["main"], after["main"])
    torch.testing.assert_close(before["aux"][0], after["aux"][0])
    assert not torch.allclose(before["aux"][1], after["aux"][1])


def test_the_branch_drops_as_often_as_the_blocks_beside_it():
    model = make(drop_path=0.6)
    torch.testing.assert_close(model.aux_rates, model.trunk.drop_rates[-4:])
