from __future__ import annotations

import argparse
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from itpn_ray.errors import CheckpointError
from itpn_ray.models import (
    create_autoencoder,
    create_dense,
    create_distiller,
    create_model,
    load_model,
    load_weights,
    save_model,
)
from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.weights.raw_files import read_metadata, read_raw

MAKERS = {
    "classifier": lambda **more: create_model("nano", num_classes=3, image_size=32, **more),
    "dense": lambda **more: create_dense("nano", image_size=32, levels=4, **more),
    "autoencoder": lambda **more: create_autoencoder("nano", image_size=32, **more),
    "distiller": lambda **more: create_distiller("nano", teacher_dim=5, image_size=32, **more),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_file_is_enough_to_have_the_network_again(kind, tmp_path):
    torch.manual_seed(0)
    module = MAKERS[kind](drop_path=0.1)
    save_model(module, tmp_path / "deep" / "model.safetensors")
    again = load_model(tmp_path / "deep" / "model.safetensors")
    assert type(again) is type(module)
    assert again.config == module.config
    assert not again.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_acceleration_comes_back_with_the_weights(tmp_path):
    acceleration = Acceleration(reduction="migration", ratio=0.25, window=2, gathering=True)
    module = create_model("nano", num_classes=3, image_size=64, acceleration=acceleration)
    torch.nn.init.normal_(module.trunk.gathering.token)
    save_model(module, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert again.acceleration == acceleration
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again(images), module.eval()(images), rtol=0, atol=0)


def test_extra_metadata_travels(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(MAKERS["classifier"](), path, {"classes": '["a", "b", "c"]'})
    assert json.loads(read_metadata(path)["classes"]) == ["a", "b", "c"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(MAKERS["classifier"](), path)
    before = path.read_bytes()

    def fail(*_args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(MAKERS["classifier"](), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("kind", ["dense", "classifier"])
def test_pre_trained_weights_go_into_other_networks(kind):
    torch.manual_seed(0)
    source, target = MAKERS["autoencoder"](pyramid_depth=1), MAKERS[kind]()
    report = load_weights(target, source.state_dict())
    assert report.fraction == 1
    parts = ["trunk.", "pyramid."] if kind == "dense" else ["trunk."]
    for name, tensor in target.state_dict().items():
        if name.startswith(tuple(parts)):
            assert torch.equal(tensor, source.state_dict()[name])
    fresh = {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    assert set(report.missing) == (set() if kind == "dense" else fresh)
    assert "mask_token" in report.unexpected


def test_positions_are_resized_and_said_to_be(tmp_path):
    torch.manual_seed(0)
    source = create_autoencoder("nano", image_size=64)
    target = create_autoencoder("nano", image_size=96)
    save_model(source, tmp_path / "model.safetensors")
    report = load_weights(target, tmp_path / "model.safetensors")
    assert report.resized == ("decoder_position", "trunk.position")
    assert set(report.resized) <= set(report.loaded)
    plane = source.trunk.position.view(1, 4, 4, 128).permute(0, 3, 1, 2)
    plane = torch.nn.functional.interpolate(plane, size=(6, 6), mode="bicubic")
    torch.testing.assert_close(target.trunk.position, plane.flatten(2).mT)


def test_relative_positions_are_resized():
    source = create_model("itpn_base", relative_position=True, depths=(1, 1, 1), image_size=32)
    target = create_model("itpn_base", relative_position=True, depths=(1, 1, 1), image_size=64)
    torch.nn.init.ones_(source.trunk.stage3[0].attention.relative)
    report = load_weights(target, source.state_dict())
    assert "trunk.stage3.0.attention.relative" in report.resized
    torch.testing.assert_close(target.trunk.stage3[0].attention.relative, torch.ones(49, 8))


def test_layer_scales_are_not_lost_in_silence():
    source, target = create_model("nano"), create_model("nano", layer_scale=None)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"scale1.*--model.partial-init"):
        load_weights(target, source.state_dict())
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name])
    report = load_weights(target, source.state_dict(), partial=True)
    assert report.fraction < 0.95
    assert "trunk.stage3.0.scale1" in report.unexpected


def test_weights_of_another_size_are_refused():
    wide, narrow = create_model("nano", width=192), create_model("nano")
    with pytest.raises(CheckpointError, match="mismatched"):
        load_weights(narrow, wide.state_dict())


def test_a_head_for_other_classes_is_left_new():
    source = create_model("nano", num_classes=3)
    target = create_model("nano", num_classes=4)
    report = load_weights(target, source.state_dict())
    assert report.mismatched == ("head.bias", "head.weight")
    assert report.fraction == 1


def test_new_gathering_tokens_may_be_missing():
    acceleration = Acceleration(window=2, gathering=True, relative_position="windows+cross")
    target = create_model("nano", acceleration=acceleration)
    report = load_weights(target, create_model("nano").state_dict())
    assert report.fraction == 1
    assert any(name.startswith("trunk.gathering.") for name in report.missing)


def test_files_that_cannot_be_used_are_named(tmp_path):
    good, cut = tmp_path / "good.safetensors", tmp_path / "cut.safetensors"
    save_model(MAKERS["classifier"](), good)
    cut.write_bytes(good.read_bytes()[:-100])
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(1)}, plain)
    text = tmp_path / "text.safetensors"
    text.write_text("<html>not found</html>")
    absent = tmp_path / "absent.safetensors"
    for path, cause in [
        (cut, "not a whole"),
        (plain, "holds no network"),
        (text, "not a whole"),
        (absent, "does not exist"),
    ]:
        with pytest.raises(CheckpointError, match=cause) as error:
            load_model(path)
        assert path.name in str(error.value)


@pytest.mark.parametrize(
    "entry", ["{", '{"kind": "classifier"}', '{"kind": "oracle"}', "[]", "null"]
)
def test_a_description_that_does_not_fit_is_an_error(entry, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(MAKERS["classifier"](), path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"itpn_ray": entry})
    with pytest.raises(CheckpointError, match="disagree"):
        load_model(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_pickles_that_would_run_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.zeros(1)}, "extra": Bomb()}, "bad.pth")
    with pytest.raises(CheckpointError, match=r"bad\.pth.*plain tensors"):
        read_raw("bad.pth")
    assert not os.path.exists("exploded")


def test_pickles_with_the_authors_arguments_are_read(tmp_path):
    torch.save(
        {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1.0)}, tmp_path / "a.pth"
    )
    assert read_raw(tmp_path / "a.pth")[1]["model"]["a"] == 1
