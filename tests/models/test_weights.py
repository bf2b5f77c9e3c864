"""The one way into weights: whatever a file is called and however its tensors are wrapped."""

from __future__ import annotations

import argparse
import os
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
    to_official,
)
from itpn_ray.models.weights.config import InspectConfig
from itpn_ray.models.weights.files import read_pyramid
from itpn_ray.models.weights.inspect import inspect_file
from itpn_ray.models.weights.raw_files import read_raw
from itpn_ray.models.weights.read import read_weights
from itpn_ray.runs.folder import EXPORT
from tests.models.detection.made import rcnn
from tests.models.nets import stir

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    made = create_model("nano", num_classes=3, image_size=32)
    stir(made)
    return made.eval()


@pytest.fixture(params=["ours", "authors"])
def state(request: pytest.FixtureRequest, net: Any) -> State:
    """The tensors of one network under the names of both."""
    return dict(net.state_dict()) if request.param == "ours" else to_official(net)


def assert_same(found: torch.nn.Module, net: torch.nn.Module) -> None:
    for name, tensor in net.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert found.config.trunk.heads == net.config.trunk.heads


@pytest.mark.parametrize("ending", ["pth", "pt", "bin", "safetensors", "ckpt"])
@pytest.mark.parametrize("form", ["zip", "older", "safetensors"])
def test_a_file_is_what_its_bytes_say(
    state: State, net: Any, ending: str, form: str, tmp_path: Path
) -> None:
    path = tmp_path / f"model.{ending}"
    if form == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    assert_same(load_model(path), net)


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_safetensors_may_begin_as_pickles_do(net: Any, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(net, path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    # Headers are padded to multiples of 8 bytes.
    lengths = (n for n in range(size + 64, 90_000, 8) if n.to_bytes(8, "little").startswith(start))
    wanted = next(lengths)
    save_model(net, path, {"note": "x" * (wanted - size - len(',"note":""'))})
    assert path.read_bytes().startswith(start)
    assert_same(load_model(path), net)


@pytest.mark.parametrize("entry", ["model", "state_dict", "module", "model_ema", "ema", "a.b"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "backbone.", "encoder.", "x.y."])
def test_entries_and_prefixes(state: State, net: Any, entry: str, prefix: str) -> None:
    tree: dict[str, Any] = {prefix + name: tensor for name, tensor in state.items()}
    for name in reversed(entry.split(".")):
        tree = {name: tree, "epoch": 3}
    fresh = create_model("nano", num_classes=3, image_size=32)
    report = load_weights(fresh, tree)
    assert report.fraction == 1
    assert (report.missing, report.unexpected, report.remarks) == ((), (), ())
    assert_same(fresh, net)


def test_of_several_networks_one_is_taken_and_said(state: State, net: Any, tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in state.items()}
    path = tmp_path / "run.pth"
    torch.save({"model_ema": other, "optimizer": {0: torch.zeros(2)}, "model": state}, path)
    with pytest.warns(UserWarning, match=r"run\.pth: took model of model_ema, model"):
        assert_same(load_model(path), net)
    average = load_model(path, key="model_ema")
    assert torch.equal(average.norm.bias, net.norm.bias + 1)
    rows = inspect_file(InspectConfig(file=str(path))).rows()
    assert any(name == "note" and "took model of" in text for name, text in rows)
    report = load_weights(create_model("nano", num_classes=3, image_size=32), path)
    assert str(report).startswith("took model of model_ema, model")
    with pytest.raises(CheckpointError, match=r"no network in an entry 'ema'. it has model_ema"):
        load_model(path, key="ema")


def test_students_and_teachers_in_one_state_dict(state: State, net: Any) -> None:
    teacher = {f"teacher.{name}": tensor + 1 for name, tensor in state.items()}
    both = teacher | {f"student.{name}": tensor for name, tensor in state.items()}
    weights = read_weights(both)
    assert torch.equal(weights.tensors["norm.bias"], net.norm.bias)
    assert weights.remarks == ("took student of teacher, student; key says which",)
    assert len(weights.tensors) == len(net.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        lambda: create_autoencoder("nano", image_size=32),
        lambda: create_distiller("nano", teacher_dim=5, image_size=32),
        lambda: create_dense("nano", image_size=32, levels=5, pyramid_depth=2),
        lambda: create_model("itpn_base", depths=(1, 1, 1), relative_position=True),
        lambda: create_model("plain_nano", num_classes=3),
        lambda: create_model("fast_itpn_nano", num_classes=3, convolution=True),
        lambda: create_dense("nano", levels=5, convolution=True, pyramid_depth=2),
    ],
    ids=["autoencoder", "distiller", "dense", "itpn", "plain", "convolution", "conv-dense"],
)
def test_saved_state_dicts_are_described_by_their_shapes(make: Any, tmp_path: Path) -> None:
    module = make()
    torch.save(module.state_dict(), tmp_path / "state.pt")
    found = load_model(tmp_path / "state.pt")
    assert found.config == module.config
    for name, tensor in module.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


def test_heads_that_nothing_tells_are_said_to_be_guessed() -> None:
    odd = create_model("nano", width=32, heads=2, num_classes=3, image_size=32)
    assert read_weights(odd.state_dict()).remarks == (
        "guessed 1 attention heads, 64 channels each; num_heads of load_official says",
    )
    assert not read_weights(odd.state_dict(), num_heads=2).remarks


def test_a_detector_without_its_description_gives_its_weights_only(tmp_path: Path) -> None:
    torch.save(rcnn().state_dict(), tmp_path / "detector.pth")
    assert read_pyramid(tmp_path / "detector.pth") == rcnn().config.pyramid
    assert load_weights(rcnn(), tmp_path / "detector.pth").fraction == 1
    with pytest.raises(CheckpointError, match="detector's tensors without the description"):
        load_model(tmp_path / "detector.pth")


def test_a_runs_folder_stands_for_its_weights(net: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder without exported"):
        load_model(tmp_path)
    save_model(net, tmp_path / EXPORT, {"classes": '["a", "b", "c"]'})
    assert load_model(tmp_path).classes == ("a", "b", "c")
    rows = dict(inspect_file(InspectConfig(file=str(tmp_path))).rows())
    assert rows["file"].endswith(EXPORT)


def test_what_training_scripts_leave_in_a_pickle(state: State, net: Any, tmp_path: Path) -> None:
    left = {
        "args": argparse.Namespace(lr=1.0, out=pathlib.Path("x"), inner=argparse.Namespace(a=1)),
        "best": np.float64(83.1),
        "epoch": np.int64(3),
        "flag": np.bool_(True),
        "history": np.arange(3.0),
        "names": np.array(["a", 1], dtype=object),
    }
    torch.save({"model": state, **left}, tmp_path / "run.pth")
    assert_same(load_model(tmp_path / "run.pth"), net)
    tree = read_raw(tmp_path / "run.pth")[1]
    assert tree["best"] == 83.1
    assert tree["args"].inner.a == 1


class Calls:
    """Unpickling it would call something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch exploded",), "posix.system"),
        (eval, ("open('exploded', 'w')",), "eval"),
        (pathlib.Path.touch, (pathlib.PurePosixPath("exploded"),), "getattr"),
        (torch.load, ("other.pth",), "torch.serialization.load"),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_pickles_that_would_call_something_are_refused_in_one_line(
    function: Any,
    arguments: tuple[Any, ...],
    named: str,
    older: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = {"model": {}, "extra": Calls(function, *arguments)}
    torch.save(bomb, "bad.pth", _use_new_zipfile_serialization=not older)
    with pytest.raises(CheckpointError, match=rf"bad\.pth.*{named}") as error:
        load_model("bad.pth")
    assert "\n" not in str(error.value)
    assert not os.path.exists("exploded")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "is neither a safetensors nor a PyTorch file"),
        (b"<html>not found</html>", "it begins with b'<html>no"),
        (b"version https://git-lfs", "it begins with b'version h'"),
        (b"PK\x03\x04 cut", "cannot be read as plain tensors"),
        (b"\x80\x02.", "cannot be read as plain tensors"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00{", "not a whole safetensors file"),
    ],
)
def test_what_is_no_weight_file_is_told_in_one_line(
    content: bytes, cause: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    assert cause in str(error.value)
    assert "weights.pth" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("mine.onnx", b"\x08\n\x12\x07pytorch", "is an ONNX graph"),
        ("renamed", b"\x08\n\x12\x07pytorch", "is an ONNX graph"),
        ("mine.pt2", b"PK\x03\x04", "is a program of torch.export"),
    ],
)
def test_programs_are_told_from_weights(
    name: str, content: bytes, cause: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{cause}.*\. Name the run or the weights"):
        load_model(path)
    (tmp_path / f"{name}.md").write_text("# A card")
    with pytest.raises(CheckpointError, match=rf"Look at the card beside it, {name}\.md, or"):
        load_model(path)


@pytest.mark.parametrize(
    ("tree", "cause"),
    [
        ({"conv1.weight": torch.zeros(1)}, "its entries: conv1.weight"),
        ([torch.zeros(1)], "it holds a list"),
        ({"pos_embed": torch.zeros(1, 5, 8), "blocks.0.norm1.weight": torch.ones(8)}, "holds no"),
    ],
)
def test_other_networks_are_told_apart(tree: Any, cause: str, tmp_path: Path) -> None:
    torch.save(tree, tmp_path / "other.bin")
    with pytest.raises(CheckpointError, match=cause):
        load_model(tmp_path / "other.bin")
