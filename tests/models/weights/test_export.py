from __future__ import annotations

import json
import os

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from itpn_ray import cli
from itpn_ray.errors import ConfigError
from itpn_ray.models import (
    create_autoencoder,
    create_dense,
    create_distiller,
    create_model,
    load_model,
    save_model,
)
from itpn_ray.models.weights.config import ExportConfig
from itpn_ray.models.weights.export import ENTRY, export
from tests.models.detection.dinos import dino
from tests.models.detection.made import rcnn
from tests.models.segmentation.test_network import segmenter


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Weights of a network of each kind, and three images."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export")
    networks = {
        "classifier": create_model("nano", num_classes=5, image_size=64, depths=(1, 1, 2)),
        "dense": create_dense("nano", image_size=64, levels=4, depths=(1, 1, 2)),
        "autoencoder": create_autoencoder("nano", image_size=64, depths=(1, 1, 2)),
        "distiller": create_distiller("nano", teacher_dim=5, image_size=64, depths=(1, 1, 2)),
        "dino": dino(stirred=True, encoder_layers=1, decoder_layers=1),
        "rcnn": rcnn(),
        "mask_dino": segmenter("mask_dino"),
        "eomt": segmenter("eomt"),
    }
    told = {"classes": '["a", "b", "c"]', "view": "[48, 64]"}
    torch.nn.init.normal_(networks["classifier"].head.weight)
    for name, network in networks.items():
        extra = told if name in ("dino", "rcnn") else {"crop_fraction": "0.875"}
        save_model(network, folder / f"{name}.safetensors", extra)
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


@pytest.mark.programs
@pytest.mark.parametrize(("ending", "kind"), [("pt2", "dense"), ("onnx", "classifier")])
def test_programs_for_any_batch_with_migration(files, tmp_path, ending, kind):
    out = tmp_path / f"model.{ending}"
    report = export(
        ExportConfig(file=files[kind], out=str(out), migration=0.4, verify=make_images(files))
    )
    maps = ("stride4", "stride8", "stride16", "stride32")
    assert report.outputs == (maps if kind == "dense" else ("logits",))
    assert report.difference < 1e-4 * report.scale
    assert sorted(os.listdir(tmp_path)) == [out.name, f"{out.name}.md"]


@pytest.mark.programs
def test_onnx_for_a_fixed_batch(files, tmp_path):
    out = tmp_path / "model.onnx"
    report = export(
        ExportConfig(file=files["dense"], out=str(out), batch=1, verify=make_images(files))
    )
    assert report.difference < 1e-4 * report.scale
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 64, 64]
    assert [output.name for output in session.get_outputs()] == list(report.outputs)
    assert "crop_fraction" in session.get_modelmeta().custom_metadata_map[ENTRY]


@pytest.mark.programs
@pytest.mark.parametrize(
    "kind", ["autoencoder", pytest.param("distiller", marks=pytest.mark.slow), "rcnn"]
)
def test_of_some_networks_trunk_and_pyramid_are_a_program(files, tmp_path, kind):
    out = tmp_path / "model.pt2"
    report = export(ExportConfig(file=files[kind], out=str(out), verify=make_images(files)))
    assert report.note.startswith("trunk and pyramid; ")
    assert report.outputs == tuple(f"stride{s}" for s in (4, 8, 16, 32, 64)[: len(report.outputs)])
    assert len(report.outputs) == (5 if kind == "rcnn" else 3)
    assert report.difference < 1e-4 * report.scale
    network = load_model(files[kind])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = torch.export.load(out).module()(images)
        stages = network.body.stages(images)
    dense = network.trunk if kind == "rcnn" else network
    pyramid = dense.pyramid(*stages)[4]  # (B, N, 4, 4, P)
    torch.testing.assert_close(found[0][:, :, 0, 0], pyramid[:, 0, 0, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.programs
@pytest.mark.parametrize("batch", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_dino_is_a_program_as_a_whole(files, tmp_path, batch):
    out = tmp_path / "model.pt2"
    report = export(
        ExportConfig(file=files["dino"], out=str(out), batch=batch, verify=make_images(files))
    )
    assert report.outputs == ("boxes", "scores", "labels")
    assert report.note == ""
    assert report.difference < 1e-4 * report.scale
    images, sizes = torch.randn(1, 3, 64, 64), torch.tensor([[48, 64]])
    boxes, scores, _ = torch.export.load(out).module()(images, sizes)
    (found,) = load_model(files["dino"]).detect(images, sizes)
    torch.testing.assert_close(boxes[scores >= 0], found.boxes, rtol=1e-3, atol=1e-2)


@pytest.mark.programs
@pytest.mark.parametrize("kind", ["mask_dino", pytest.param("eomt", marks=pytest.mark.slow)])
def test_segmenters_of_queries_are_programs(files, tmp_path, kind):
    out = tmp_path / "model.pt2"
    report = export(
        ExportConfig(file=files[kind], out=str(out), image_size=64, verify=make_images(files))
    )
    assert report.outputs == ("logits",)
    assert report.difference < 1e-4 * report.scale


@pytest.mark.slow
@pytest.mark.parametrize("batch", [0, 1])
def test_dino_as_onnx(files, tmp_path, batch):
    out = str(tmp_path / "model.onnx")
    report = export(
        ExportConfig(file=files["dino"], out=out, batch=batch, verify=make_images(files))
    )
    assert report.difference < 1e-4 * report.scale


@pytest.mark.parametrize("kind", ["dino", "rcnn", "distiller"])
def test_safetensors_hold_every_network_whole_with_what_is_said_of_it(files, tmp_path, kind):
    out = tmp_path / "model.safetensors"
    report = export(ExportConfig(file=files[kind], out=str(out), verify=make_images(files)))
    assert (report.note, report.difference) == ("", 0)
    again, before = load_model(out), load_model(files[kind])
    assert again.config == before.config
    assert again.classes == before.classes


def test_the_crop_follows_the_size_unless_it_was_chosen(files, tmp_path):
    out = tmp_path / "model.safetensors"
    export(ExportConfig(file=files["classifier"], out=str(out), image_size=384))
    assert load_model(out).crop_fraction == 1.0
    save_model(
        load_model(files["classifier"]), tmp_path / "own.safetensors", {"crop_fraction": ".9"}
    )
    export(ExportConfig(file=str(tmp_path / "own.safetensors"), out=str(out), image_size=384))
    assert load_model(out).crop_fraction == 0.9


def test_programs_say_how_their_input_is_made(files, tmp_path):
    export(ExportConfig(file=files["classifier"], out=str(tmp_path / "a.pt2"), batch=1))
    extra = {ENTRY: ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    told = json.loads(extra[ENTRY])
    assert told["input_size"] == [3, 64, 64]
    assert told["crop_fraction"] == 0.875
    assert told["mean"] == [0.485, 0.456, 0.406]


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
    out = str(tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match="not for this autoencoder"):
        export(ExportConfig(file=files["autoencoder"], out=out, migration=0.2))
    with pytest.raises(ConfigError, match="2 at a time"):
        export(
            ExportConfig(
                file=files["dense"], out=str(tmp_path / "a.pt2"), batch=2, verify=make_images(files)
            )
        )
    with pytest.raises(ConfigError, match="names no format"):
        ExportConfig(file=files["dense"], out="model.bin")
    assert os.listdir(tmp_path) == []


def test_the_terminal_tells_a_comparison_from_none(files, tmp_path, capsys):
    command = ["export", files["classifier"], "--out", str(tmp_path / "model.safetensors")]
    assert cli.run(command) == 0
    assert "compared" not in capsys.readouterr().out
    assert cli.run([*command, "--verify", *make_images(files)]) == 0
    told = "outputs compared with the network's on 3 images: they differ by 0.00e+00 at most"
    assert told in capsys.readouterr().out
