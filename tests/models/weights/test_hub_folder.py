"""A folder as the Hugging Face Hub has it: timm and every way into weights read it back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config

import itpn_ray.models.timm  # noqa: F401  registers the networks
from itpn_ray.cli import run
from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.models import Classifier, create_model, load_model, load_weights, save_model
from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.weights.config import ExportConfig
from itpn_ray.models.weights.export import export
from itpn_ray.models.weights.read import read_weights
from itpn_ray.storage import open_store
from itpn_ray.tasks.registry import settings_of_file
from itpn_ray.training.exporting import weight_file
from tests.data.made import jpeg, make_image
from tests.models.detection.made import rcnn
from tests.models.nets import classifier, make_images, stir

NAMES = [f"class {number}" for number in range(10)]
FILES = ["README.md", "config.json", "model.safetensors"]
WINDOWS = Acceleration(
    reduction="migration", ratio=0.3, window=2, gathering=True, relative_position="windows"
)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smaller": {"depths": (1, 1, 2), "layer_scale": None},
    "accelerated": {"acceleration": WINDOWS, "drop_path": 0.2},
    "iTPN": {"name": "itpn_base", "depths": (1, 1, 2), "relative_position": True},
    "early norm": {"norm_before_pool": True},
}


def exported(network: Classifier, folder: Path, **options: Any) -> Path:
    """The folder of a network."""
    file = folder / "trained.safetensors"
    told = {"classes": json.dumps(NAMES), "task": "classification", "crop_fraction": "0.9"}
    save_model(network, file, told)
    out = folder / "hub/mine"
    export(ExportConfig(file=str(file), out=str(out), format="huggingface", **options))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_timm_and_we_build_the_same_network(kind: str, tmp_path: Path) -> None:
    network = classifier(**KINDS[kind])
    folder = exported(network, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    images = make_images(2, 64)
    ours = load_model(folder)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        expected = network(images)
        assert torch.equal(ours(images), expected)
        assert torch.equal(theirs(images), expected)
    assert type(theirs) is Classifier
    assert theirs.acceleration == network.acceleration
    told = resolve_model_data_config(theirs)
    assert (told["input_size"], told["crop_pct"]) == ((3, 64, 64), 0.9)
    assert list(theirs.pretrained_cfg["label_names"]) == NAMES
    assert ours.classes == theirs.classes == tuple(NAMES)
    photo = make_image(0, 70, 80)
    assert torch.equal(ours.preprocess(photo), theirs.preprocess(photo))


def test_timm_takes_another_head_and_features(tmp_path: Path) -> None:
    network = classifier()
    folder = exported(network, tmp_path)
    other = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    assert (other.num_classes, other.classes) == (3, ())
    assert torch.equal(other.trunk.position, network.trunk.position)
    assert other(make_images(1, 64)).shape == (1, 3)
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
    assert [m.shape[-1] for m in features(make_images(1, 64))] == [16, 8, 4]


def test_every_way_into_weights_reads_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = classifier()
    folder = exported(network, tmp_path)
    assert settings_of_file(str(folder)).name == "classification"
    assert read_weights(folder).classes == tuple(NAMES)
    begun = create_model("nano", num_classes=4, image_size=64, width=32, heads=2)
    assert load_weights(begun, folder).fraction == 1.0
    assert run(["inspect", str(folder)]) == 0
    assert "0.9 of the shorter side" in capsys.readouterr().out
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(jpeg(make_image(0, 70, 80)))
    answers = []
    for name, weights in (("one", folder), ("two", tmp_path / "trained.safetensors")):
        out = tmp_path / name
        words = ["predict", str(weights), str(images), "--out", str(out), "--workers", "0"]
        assert run(words) == 0
        answers.append(json.loads((out / "results.json").read_text()))
    assert answers[0] == answers[1]
    again = tmp_path / "again.safetensors"
    assert run(["export", str(folder), "--out", str(again)]) == 0
    assert torch.equal(load_model(again)(make_images(1, 64)), network(make_images(1, 64)))


def test_its_python_runs_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported(classifier(), tmp_path)
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: itpn_ray\n")
    assert "# mine\n" in readme
    (folder.parent / "photo.jpg").write_bytes(jpeg(make_image(0, 70, 80)))
    monkeypatch.chdir(folder.parent)
    ours, timms = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(ours, "card", "exec"), {})
    exec(compile(timms, "card", "exec"), {})


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    folder = exported(classifier(), tmp_path)
    second = classifier()
    stir(second, seed=1)
    exported(second, tmp_path)
    images = make_images(1, 64)
    with torch.no_grad():
        assert torch.equal(load_model(folder)(images), second(images))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds something else \(notes.txt\)"):
        exported(second, tmp_path)
    source = str(tmp_path / "trained.safetensors")
    with pytest.raises(ConfigError, match="is a file"):
        export(ExportConfig(file=source, out=source, format="huggingface"))


def test_it_is_exact_at_another_size_and_ratio(tmp_path: Path) -> None:
    network = classifier()
    save_model(network, tmp_path / "net.safetensors")
    (tmp_path / "a.jpg").write_bytes(jpeg(make_image(0, 70, 80)))
    report = export(
        ExportConfig(
            file=str(tmp_path / "net.safetensors"),
            out=str(tmp_path / "hub"),
            format="huggingface",
            image_size=96,
            migration=0.2,
            verify=(str(tmp_path / "a.jpg"),),
        )
    )
    assert report.difference == 0
    assert report.path == tmp_path / "hub/model.safetensors"
    theirs = timm.create_model(f"local-dir:{tmp_path}/hub", pretrained=True)
    assert (theirs.image_size, theirs.acceleration.ratio) == (96, 0.2)


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    save_model(rcnn(), tmp_path / "net.safetensors", {"classes": '["a", "b", "c"]'})
    config = ExportConfig(
        file=str(tmp_path / "net.safetensors"), out=str(tmp_path / "hub"), format="huggingface"
    )
    with pytest.raises(ConfigError, match="is for classifiers with a head, and this is a rcnn"):
        export(config)
    assert not (tmp_path / "hub").exists()
    with pytest.raises(ConfigError, match="format = 'tf': no such format"):
        ExportConfig(file="a", out="b", format="tf")
    with pytest.raises(ConfigError, match="goes into a program"):
        ExportConfig(file="a", out="b", format="huggingface", processing=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"without exported/.* or model.safetensors"):
        load_model(tmp_path / "empty")


def test_a_folder_in_a_bucket_is_read(tmp_path: Path, s3_uri: str) -> None:
    network = classifier()
    folder = exported(network, tmp_path)
    store = open_store(f"{s3_uri}/hub")
    for name in FILES:
        store.put_file(folder / name, name)
    images = make_images(1, 64)
    with torch.no_grad():
        assert torch.equal(load_model(f"{s3_uri}/hub")(images), network(images))
    assert weight_file(f"{s3_uri}/hub", print).name == "model.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(f"{s3_uri}/none")
