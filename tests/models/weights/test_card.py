"""Beside an exported file lies a card whose Python runs; a program may take pixels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from itpn_ray.errors import ConfigError
from itpn_ray.models import create_autoencoder, load_model, save_model
from itpn_ray.models.weights.config import ExportConfig
from itpn_ray.models.weights.export import ENTRY, export
from tests.data.made import make_image
from tests.models.detection.dinos import dino
from tests.models.detection.made import rcnn
from tests.models.nets import classifier

NAMES = ["cat", "dog", "a | b", *map(str, range(7))]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    told = {"classes": json.dumps(NAMES), "task": "classification", "crop_fraction": "0.875"}
    save_model(classifier(depths=(1, 1, 2)), folder / "classifier.safetensors", told)
    small = {"encoder_layers": 1, "decoder_layers": 1}
    views = {"classes": '["a", "b", "c"]', "view": "[48, 64]"}
    save_model(dino(stirred=True, **small), folder / "dino.safetensors", views)
    save_model(rcnn(), folder / "rcnn.safetensors", views)
    pre = create_autoencoder("nano", image_size=64, depths=(1, 1, 2))
    save_model(pre, folder / "pre.safetensors")
    make_image(0, 90, 70).save(folder / "photo.jpg")
    return folder


def code_of(card: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL))


@pytest.mark.parametrize(
    ("kind", "ending", "settings"),
    [
        ("classifier", ".safetensors", {}),
        ("classifier", ".pt2", {}),
        ("classifier", ".onnx", {"processing": True}),
        ("rcnn", ".pt2", {"image_size": 64}),
        ("dino", ".safetensors", {}),
        ("pre", ".pt2", {}),
        ("pre", ".safetensors", {}),
    ],
)
def test_the_python_of_a_card_runs(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    ending: str,
    settings: dict[str, object],
) -> None:
    out = tmp_path / f"net{ending}"
    source = str(files / f"{kind}.safetensors")
    report = export(ExportConfig(file=source, out=str(out), batch=1, **settings))  # type: ignore[arg-type]
    assert report.card == tmp_path / f"net{ending}.md"
    Image.open(files / "photo.jpg").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of(report.card), "card", "exec"), {})
    assert "a | b" not in report.card.read_text().split("```")[0]  # no column of its own


def test_probabilities_and_labels_are_those_of_the_network(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    photo = str(files / "photo.jpg")
    report = export(
        ExportConfig(
            file=str(files / "classifier.safetensors"),
            out=str(out),
            processing=True,
            verify=(photo,),
        )
    )
    assert report.outputs == ("probabilities", "labels")
    assert report.difference is not None
    assert report.difference < 1e-4
    model = load_model(files / "classifier.safetensors")
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map[ENTRY])
    assert (told["input_size"], told["input_type"]) == ([64, 64, 3], "uint8")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    probabilities, labels = session.run(None, {"pixels": pixels})
    crops = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = model((crops / 255 - mean) / std).softmax(1)
    assert probabilities == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-5)
    assert labels.tolist() == expected.argmax(1).tolist()


def test_processing_is_for_programs_of_classifiers(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="processing = True: goes into a program"):
        ExportConfig(file="f", out="net.safetensors", processing=True)
    for kind in ("dino", "pre"):
        config = ExportConfig(
            file=str(files / f"{kind}.safetensors"), out=str(tmp_path / "a.onnx"), processing=True
        )
        with pytest.raises(ConfigError, match="processing = True: is for classifiers"):
            export(config)
