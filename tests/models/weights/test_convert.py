from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from itpn_ray.errors import CheckpointError
from itpn_ray.models import (
    create_autoencoder,
    create_dense,
    create_distiller,
    create_model,
    load_official,
    to_official,
)

FILES = [
    "fast_itpn_small64",
    "fast_itpn_small64_noscale_norm",
    "itpn_mae_small64",
    "itpn_clip_small64",
    "itpn_levels_small64",
    "itpn_cls_small64_rpe",
]


@pytest.mark.parametrize("name", FILES)
def test_there_and_back_is_the_identity(reference, name):
    weights, _, _ = reference(name)
    module, _ = load_official(weights)
    back = to_official(module)
    assert back.keys() == weights.keys()
    for key, tensor in weights.items():
        assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize(
    "make",
    [
        lambda: create_autoencoder("nano", pyramid_depth=1),
        lambda: create_distiller("nano", teacher_dim=9),
        lambda: create_dense("nano", pyramid_width=128),
        lambda: create_model(
            "itpn_base", depths=(2, 1, 2), layer_scale=0.1, relative_position=True
        ),
    ],
    ids=["autoencoder", "distiller", "dense", "classifier"],
)
def test_back_and_there_is_the_identity(make):
    module = make()
    again, report = load_official(to_official(module), num_heads=module.config.trunk.heads)
    assert report.fraction == 1
    assert again.config == replace(module.config, trunk=again.config.trunk)
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_what_a_file_holds_follows_from_its_shapes(reference):
    module, _ = load_official(reference("itpn_clip_small64")[0])
    trunk = module.config.trunk
    assert (trunk.family, trunk.width, trunk.heads) == ("itpn", 64, 2)  # heads: from the tables
    assert trunk.depths == (1, 1, 8)
    assert trunk.image_size == 96
    assert trunk.relative_position
    assert trunk.patch_norm
    assert trunk.layer_scale is not None
    assert (module.config.pyramid.width, module.config.pyramid.depth) == (32, 1)
    assert module.config.teacher_dim == 48
    decoder = load_official(reference("itpn_mae_small64")[0])[0].config
    assert (decoder.decoder_width, decoder.decoder_depth, decoder.decoder_heads) == (64, 2, 4)


@pytest.mark.parametrize(("width", "heads"), [(64, 4), (256, 16), (512, 16), (768, 16)])
def test_decoders_have_16_heads_or_heads_of_16(width, heads):
    source = create_autoencoder("nano", decoder_width=width, decoder_depth=1, image_size=32)
    module, _ = load_official(to_official(source))
    assert module.config.decoder_heads == heads
    given, _ = load_official(to_official(source), decoder_num_heads=2)
    assert given.config.decoder_heads == 2


def test_heads_have_64_channels_unless_given(reference):
    weights = reference("fast_itpn_small64")[0]
    assert load_official(weights)[0].config.trunk.heads == 1
    assert load_official(weights, num_heads=4)[0].config.trunk.heads == 4
    with pytest.raises(CheckpointError, match="equal heads"):
        load_official(weights, num_heads=3)
    with pytest.raises(CheckpointError, match="num_heads"):
        load_official(reference("itpn_cls_small64_rpe")[0], num_heads=4)


def test_another_image_size_resizes_the_table(reference):
    weights = reference("fast_itpn_small64")[0]
    module, report = load_official(weights, num_heads=2, image_size=96)
    assert report.resized == ("trunk.position",)
    table = weights["pos_embed"].view(1, 4, 4, 64).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(table, size=(6, 6), mode="bicubic")
    torch.testing.assert_close(module.trunk.position, resized.flatten(2).mT)
    images = torch.randn(1, 3, 96, 96)
    plain, _ = load_official(weights, num_heads=2)  # resizes when it sees the image
    torch.testing.assert_close(module(images), plain(images))


def test_itpn_resizes_as_its_code_does(reference):
    weights, _, _ = reference("itpn_levels_small64")
    module, _ = load_official(weights, num_heads=2, image_size=96)
    table = weights["absolute_pos_embed"].view(1, 4, 4, 64).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(table, scale_factor=(6.1 / 4,) * 2, mode="bicubic")
    torch.testing.assert_close(module.trunk.position, resized.flatten(2).mT)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module", None])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_wrapped_and_prefixed_files_are_read(reference, wrapper, prefix, tmp_path):
    weights, expected, _ = reference("itpn_cls_small64_rpe")
    state = {prefix + name: tensor for name, tensor in weights.items()}
    state[f"{prefix}relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "official.pth")
    module, report = load_official(tmp_path / "official.pth")
    assert report.fraction == 1
    assert not report.unexpected
    with torch.no_grad():
        torch.testing.assert_close(
            module(expected["image"]), expected["logits"], rtol=1e-3, atol=1e-4
        )


def test_safetensors_files_are_read(reference, tmp_path):
    save_file(reference("fast_itpn_small64")[0], tmp_path / "official.safetensors")
    module, _ = load_official(tmp_path / "official.safetensors")
    assert module.config.num_classes == 10


def test_what_has_no_place_is_reported(reference):
    weights = dict(reference("fast_itpn_small64")[0])
    weights["blocks.7.attn.something"] = torch.zeros(1)
    del weights["blocks.7.attn.k_proj.weight"]
    _, report = load_official(weights)
    assert report.missing == ("trunk.stage3.2.attention.qkv.weight",)
    assert set(report.unexpected) == {
        "blocks.7.attn.something", "blocks.7.attn.q_proj.weight", "blocks.7.attn.v_proj.weight",
    }  # fmt: skip


def test_a_backbone_without_a_head_gives_features(reference):
    weights = {k: v for k, v in reference("fast_itpn_small64")[0].items() if "head" not in k}
    module, report = load_official(weights)
    assert not report.missing
    assert module(torch.zeros(1, 3, 64, 64)).shape == (1, 64)


def test_too_little_is_refused_unless_partial(reference):
    weights = reference("fast_itpn_small64")[0]
    some = {k: v for k, v in weights.items() if not k.startswith("blocks.6.mlp")}
    with pytest.raises(CheckpointError, match="at least 95%"):
        load_official(some)
    _, report = load_official(some, partial=True)
    assert report.fraction < 0.95


@pytest.mark.parametrize("state", [{}, {"a": torch.zeros(1)}, {"pos_embed": torch.zeros(1, 4, 64)}])
def test_other_files_are_told_apart(state):
    with pytest.raises(CheckpointError, match="authors"):
        load_official(state)


def test_oblong_tables_cannot_be_read(reference):
    weights = dict(reference("fast_itpn_small64")[0])
    weights["pos_embed"] = weights["pos_embed"][:, :12]
    with pytest.raises(CheckpointError, match="square"):
        load_official(weights)


def test_auxiliary_tables_that_nothing_uses_are_dropped(reference):
    weights = {
        name: tensor
        for name, tensor in reference("itpn_clip_small64")[0].items()
        if "relative" not in name or "cls_pt" in name
    }
    _, report = load_official(weights, num_heads=2)
    assert not report.unexpected
