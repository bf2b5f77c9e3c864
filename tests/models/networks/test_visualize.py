from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from itpn_ray.errors import ConfigError
from itpn_ray.models import create_autoencoder, create_model, create_trunk, save_model
from itpn_ray.models.networks.visualize import attention_map, migration_map, visualize
from itpn_ray.models.weights.config import VisualizeConfig


@pytest.mark.parametrize("block", [0, 2, -1])
@pytest.mark.parametrize("name", ["nano", "itpn_base"])
def test_the_map_is_what_the_block_attends_with(name, block):
    torch.manual_seed(0)
    relative = name == "itpn_base"
    trunk = create_trunk(
        name, image_size=64, width=64, heads=2, depths=(1, 1, 4), relative_position=relative
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    attention = trunk.stage3[block].attention
    if relative:
        torch.nn.init.normal_(attention.relative)
    attention.qkv.weight.data *= 20  # far from uniform
    seen = {}
    attend = attention.attend

    def watch(q, k, v, bias=None):
        scores = q @ k.mT * q.shape[-1] ** -0.5
        seen["shares"] = (scores if bias is None else scores + bias).softmax(-1)
        return attend(q, k, v, bias)

    attention.attend = watch
    trunk.stages(images)
    shares = attention_map(trunk, images, (1, 2), block)
    assert shares.shape == (2, 2, 4, 4)
    torch.testing.assert_close(shares.flatten(2), seen["shares"][:, :, 6])


def test_tokens_and_blocks_that_are_not_there_are_refused():
    trunk = create_trunk("nano", image_size=64)
    images = torch.zeros(1, 3, 64, 48)
    for query, block, match in [
        ((4, 0), 0, "4 x 3"),
        ((0, 3), 0, "4 x 3"),
        ((0, 0), 4, "4 blocks"),
    ]:
        with pytest.raises(ConfigError, match=match):
            attention_map(trunk, images, query, block)


def test_as_many_tokens_migrate_as_asked_for():
    torch.manual_seed(0)
    trunk = create_trunk("nano", image_size=64, migration=0.5)
    when = migration_map(trunk, torch.randn(3, 3, 64, 64))
    assert when.shape == (3, 4, 4)
    for image in when:
        counts = torch.bincount(image.flatten() + 1, minlength=5).tolist()
        assert counts == [8, 2, 2, 2, 2]  # half of 16 stay, the others leave evenly


def test_without_migration_there_is_no_map():
    trunk = create_trunk("nano", image_size=64)
    with pytest.raises(ConfigError, match="no token leaves"):
        migration_map(trunk, torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("show", ["attention", "migration"])
@pytest.mark.parametrize("make", [create_model, create_autoencoder])
def test_images_are_written(show, make, tmp_path):
    torch.manual_seed(0)
    save_model(make("nano", image_size=64), tmp_path / "model.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    out = visualize(
        VisualizeConfig(
            file=str(tmp_path / "model.safetensors"),
            image=str(tmp_path / "image.png"),
            out=str(tmp_path / "maps" / "map.png"),
            show=show,
        )
    )
    with Image.open(out) as drawn:
        assert drawn.size[0] > 2 * drawn.size[1] > 600
        small = np.asarray(drawn.convert("RGB").resize((64, 32))).reshape(-1, 3)
    assert len(np.unique(small, axis=0)) > 100


def test_other_maps_are_refused():
    with pytest.raises(ConfigError, match="no such map"):
        VisualizeConfig(file="a", image="b", out="c.png", show="gradient")
