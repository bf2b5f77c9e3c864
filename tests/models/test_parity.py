"""Our networks against the authors': 1e-4 of each output's standard deviation, in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from itpn_ray.models import load_official

pytestmark = pytest.mark.rounding

TOLERANCE = 1e-4


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.std()


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("name", "heads"),
    [("fast_itpn_small64", 2), ("fast_itpn_small64_noscale_norm", 2), ("fast_itpn_tiny", None)],
)
def test_fast_itpn(reference, name, heads):
    weights, expected, _ = reference(name)
    model, report = load_official(weights, num_heads=heads)
    assert report.fraction == 1
    assert not report.missing
    assert not report.unexpected
    features = model.forward_head(model.forward_features(expected["image"]), pre_logits=True)
    assert_equal(features, expected["features"])
    assert_equal(model(expected["image"]), expected["logits"])


@pytest.mark.parametrize("name", ["fast_itpn_small64", "fast_itpn_small64_noscale_norm"])
def test_fast_itpn_early_blocks(reference, name):
    weights, expected, config = reference(name)
    model, _ = load_official(weights, num_heads=2)
    trunk = model.trunk
    found = []
    for part in [
        trunk.embed_norm, *trunk.stage1, trunk.merge1, *trunk.stage2, trunk.merge2,
    ]:  # fmt: skip
        part.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    model(expected["image"])
    names = ["patch_embed"] + [f"block{i}" for i in range(len(found) - 1)]
    side = config["size"] // 16
    for key, tokens in zip(names, found, strict=True):
        cells = tokens.unflatten(1, (side, side)).permute(0, 5, 1, 3, 2, 4)  # (B, C, h, m, w, m)
        assert_equal(cells.flatten(4).flatten(2, 3), expected[key])


def test_itpn_pixel_autoencoder(reference):
    weights, expected, _ = reference("itpn_mae_small64")
    model, report = load_official(weights, num_heads=2, image_size=96)
    assert report.fraction == 1
    out = model(expected["image"], expected["mask"].bool())
    assert_equal(out["pred"], expected["pred"])
    torch.testing.assert_close(out["loss"], expected["loss"][0], rtol=1e-4, atol=0)
    order = expected["ids_keep"].argsort(dim=1)  # theirs are shuffled, ours ascend
    for i, stride in enumerate((16, 8, 4)):
        theirs = torch.stack(
            [maps[row] for maps, row in zip(expected[f"pyramid{i}"], order, strict=True)]
        )
        assert_equal(out["pyramid"][stride], theirs)


def test_itpn_pixel_autoencoder_with_given_visible_patches(reference):
    weights, expected, _ = reference("itpn_mae_small64")
    model, _ = load_official(weights, num_heads=2)
    out = model(expected["image"], expected["mask"].bool(), visible=expected["ids_keep"])
    assert_equal(out["pred"], expected["pred"])
    assert_equal(out["pyramid"][4], expected["pyramid2"])


def test_itpn_distiller(reference):
    weights, expected, _ = reference("itpn_clip_small64")
    model, report = load_official(weights)
    assert report.fraction == 1
    out = model(expected["image"], expected["mask"].bool())
    for name in ("main", "aux"):
        assert_equal(out[name], expected[name])
    for i, stride in enumerate((16, 8, 4)):
        assert_equal(out["pyramid"][stride], expected[f"pyramid{i}"])


def test_itpn_dense_maps(reference):
    weights, expected, _ = reference("itpn_levels_small64")
    model, report = load_official(weights, num_heads=2)
    assert report.fraction == 1
    out = model(expected["image"])
    assert list(out) == [4, 8, 16, 32, 64]
    for i, features in enumerate(out.values()):
        assert_equal(features, expected[f"level{i}"])


def test_itpn_classifier_with_relative_position(reference):
    weights, expected, _ = reference("itpn_cls_small64_rpe")
    model, report = load_official(weights)
    assert report.fraction == 1
    assert_equal(model(expected["image"]), expected["logits"])
