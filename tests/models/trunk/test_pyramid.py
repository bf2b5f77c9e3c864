from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from itpn_ray.errors import ConfigError, DataError
from itpn_ray.models import build, create_dense, load_weights
from itpn_ray.models.config import PyramidConfig
from itpn_ray.models.trunk.pyramid import Fold, Pyramid


def stages(batch: int, patches: int, width: int) -> list[torch.Tensor]:
    return [
        torch.randn(batch, patches, side, side, width * scale)
        for side, scale in ((4, 1), (2, 2), (1, 4))
    ]


@pytest.mark.parametrize("width", [8, 64])  # 64: as wide as the trunk, so no projection
def test_no_patch_sees_another(width):
    torch.manual_seed(0)
    pyramid = Pyramid(PyramidConfig(width=width, depth=2), (16, 32, 64))
    ours = stages(2, 5, 16)
    whole = pyramid(*ours)
    alone = pyramid(*(stage[:, 3:4] for stage in ours))
    for stride, side in ((4, 4), (8, 2), (16, 1)):
        assert whole[stride].shape == (2, 5, side, side, width)
        torch.testing.assert_close(whole[stride][:, 3:4], alone[stride])


def test_every_stage_reaches_the_finer_maps_only():
    torch.manual_seed(0)
    pyramid = Pyramid(PyramidConfig(width=8), (4, 8, 16))
    ours = stages(1, 1, 4)
    before = pyramid(*ours)
    for changed, reached in ((0, {4}), (1, {4, 8}), (2, {4, 8, 16})):
        other = [stage + (i == changed) * torch.randn_like(stage) for i, stage in enumerate(ours)]
        after = pyramid(*other)
        assert {s for s in before if not torch.allclose(before[s], after[s])} == reached


def test_a_finer_token_gives_its_own_part_of_the_sum():
    torch.manual_seed(0)
    fold = Fold(6, 32)
    maps = {
        4: torch.randn(1, 1, 4, 4, 6),
        8: torch.randn(1, 1, 2, 2, 6),
        16: torch.randn(1, 1, 1, 1, 6),
    }
    before = fold(maps)
    assert before.shape == (1, 1, 32)
    maps[4][0, 0, 1, 2] += torch.randn(6)  # cell 6 of 16: numbers 12 and 13 of 32
    changed = (fold(maps) - before)[0, 0].abs() > 1e-7
    assert changed.nonzero().flatten().tolist() == [12, 13]


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_dense_maps(pool):
    torch.manual_seed(0)
    model = create_dense("nano", image_size=64, pool=pool, join_trunk=pool == "max").eval()
    maps = model(torch.randn(2, 3, 96, 160))
    assert list(maps) == [4, 8, 16, 32, 64]
    for stride, features in maps.items():
        assert features.shape == (2, model.channels[stride], 96 // stride, 160 // stride)
    cells = maps[16][:, :, :2, 2:4].flatten(2)
    pooled = cells.mean(-1) if pool == "avg" else cells.amax(-1)
    torch.testing.assert_close(maps[32][:, :, 0, 1], pooled)
    if pool == "max":
        images = torch.randn(1, 3, 64, 64)
        joined = model(images)[16][:, 64:]
        torch.testing.assert_close(joined.flatten(2).mT, model.trunk.stages(images)[2][:, :, 0, 0])
    with pytest.raises(DataError, match="too small"):
        model(torch.zeros(1, 3, 96, 48))


@pytest.mark.parametrize("levels", [3, 5])
def test_without_the_finest_map_the_others_stay(levels):
    torch.manual_seed(0)
    whole = create_dense("nano", image_size=64, levels=levels).eval()
    part = build(replace(whole.config, finest=8)).eval()
    report = load_weights(part, whole.state_dict())
    assert all(name.startswith("pyramid.") for name in report.unexpected)
    assert not report.missing
    images = torch.randn(1, 3, 64, 128)
    maps, fewer = whole(images), part(images)
    assert list(fewer) == list(part.channels) == list(maps)[1:]
    for stride, features in fewer.items():
        torch.testing.assert_close(features, maps[stride])
    sum(features.sum() for features in fewer.values()).backward()
    assert all(p.grad is not None for p in part.pyramid.parameters())


@pytest.mark.parametrize("wrong", [{"levels": 6}, {"pool": "mean"}, {"pyramid_width": -1}])
def test_wrong_choices_are_refused(wrong):
    with pytest.raises(ConfigError):
        create_dense("nano", **wrong)
