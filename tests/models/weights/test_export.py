from __future__ import annotations

import os

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from itpn_ray.errors import ConfigError
from itpn_ray.models import create_autoencoder, create_dense, create_model, load_model, save_model
from itpn_ray.models.weights.config import ExportConfig
from itpn_ray.models.weights.export import export


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Weights of a classifier, of a dense network and of an autoencoder, and three images."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export")
    networks = {
        "classifier": create_model("nano", num_classes=5, image_size=64, depths=(1, 1, 2)),
        "dense": create_dense("nano", image_size=64, levels=4, depths=(1, 1, 2)),
        "autoencoder": create_autoencoder("nano", image_size=64, depths=(1, 1, 2)),
    }
    torch.nn.init.normal_(networks["classifier"].head.weight)
    for name, network in networks.items():
        save_model(network, folder / f"{name}.safetensors")
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (70 + 10 * i, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image{i}.png")
    return {path.stem: str(path) for path in folder.iterdir()}


def make_images(files: dict[str, str]) -> tuple[str, ...]:
    return tuple(files[f"image{i}"] for i in range(3))


def test_safetensors_at_another_size_and_ratio(files, tmp_path):
    out = tmp_path / "deep" / "model.safetensors"
    report = export(
        ExportConfig(
            file=files["classifier"],
            out=str(out),
            image_size=96,
            migration=0.5,
            verify=make_images(files),
        )
    )
    again = load_model(out)
    assert again.config.trunk.image_size == 96
    assert again.acceleration.ratio == 0.5
    assert report.outputs == ("logits",)
    assert report.difference == 0
    assert report.scale > 0.1
    assert report.size_bytes == out.stat().st_size


@pytest.mark.parametrize(("ending", "kind"), [("pt2", "dense"), ("onnx", "classifier")])
def test_programs_for_any_batch_with_migration(files, tmp_path, ending, kind):
    out = tmp_path / f"model.{ending}"
    report = export(
        ExportConfig(file=files[kind], out=str(out), migration=0.4, verify=make_images(files))
    )
    maps = ("stride4", "stride8", "stride16", "stride32")
    assert report.outputs == (maps if kind == "dense" else ("logits",))
    assert report.difference < 1e-4 * report.scale
    assert os.listdir(tmp_path) == [out.name]


def test_onnx_for_a_fixed_batch(files, tmp_path):
    out = tmp_path / "model.onnx"
    report = export(
        ExportConfig(file=files["dense"], out=str(out), batch=1, verify=make_images(files))
    )
    assert report.difference < 1e-4 * report.scale
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 64, 64]
    assert [output.name for output in session.get_outputs()] == list(report.outputs)


def test_without_images_nothing_is_compared(files, tmp_path):
    out = tmp_path / "model.safetensors"
    report = export(ExportConfig(file=files["dense"], out=str(out)))
    assert report.difference is None


def test_a_difference_is_seen(files, tmp_path, monkeypatch):
    """The comparison is with the file, not with the network that wrote it."""
    from itpn_ray.models.weights import export as module

    write, read = module._FORMATS[".safetensors"]

    def spoil(flat, *rest):
        with torch.no_grad():
            flat.network.head.bias += 1
        write(flat, *rest)
        with torch.no_grad():
            flat.network.head.bias -= 1

    monkeypatch.setitem(module._FORMATS, ".safetensors", (spoil, read))
    out = str(tmp_path / "model.safetensors")
    report = export(ExportConfig(file=files["classifier"], out=out, verify=make_images(files)))
    assert report.difference == pytest.approx(1, rel=1e-3)


def test_what_cannot_be_exported_is_refused_early(files, tmp_path):
    with pytest.raises(ConfigError, match="neither a classifier"):
        export(ExportConfig(file=files["autoencoder"], out=str(tmp_path / "a.onnx")))
    with pytest.raises(ConfigError, match="2 at a time"):
        export(
            ExportConfig(
                file=files["dense"], out=str(tmp_path / "a.pt2"), batch=2, verify=make_images(files)
            )
        )
    with pytest.raises(ConfigError, match="names no format"):
        ExportConfig(file=files["dense"], out="model.bin")
    assert os.listdir(tmp_path) == []
