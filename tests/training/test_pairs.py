"""Tasks and data that do not go together: refused in seconds, before a folder is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from itpn_ray.cli import run
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.models import save_model
from itpn_ray.models.networks.base import Network
from tests.data.made import make_image
from tests.models.detection.made import rcnn
from tests.models.nets import classifier, dense

ALONE = ["--workers", "0", "--loader.transport", "threads", "--optim.global-batch", "2"]
FINETUNE, DETECT = ["finetune", "nano", *ALONE], ["detect", "nano", *ALONE]
TUNE = ["tune", "nano", *(f"--{run}.optim.global-batch=2" for run in ("pretrain", "finetune"))]
NAMES = json.dumps([f"class {n}" for n in range(10)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, prepared: str, scenes: str) -> dict[str, str]:
    """Prepared data by kind."""
    raw, shards = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("unlabelled") / "set"
    for number in range(6):
        make_image(number, 40, 40).save(raw / f"{number}.jpg")
    prepare(PrepareConfig(source=str(raw), out=str(shards), num_workers=0))
    return {"classification": prepared, "detection": scenes, "unlabelled": str(shards)}


@pytest.mark.parametrize(
    ("command", "kind", "cause"),
    [
        (FINETUNE, "detection", "a class of each image is needed"),
        (FINETUNE, "unlabelled", "a class of each image is needed"),
        (DETECT, "classification", "boxes are needed"),
        (DETECT, "unlabelled", "boxes are needed"),
        (TUNE, "detection", "a class of each image is needed"),
        (TUNE, "unlabelled", "a class of each image is needed"),
    ],
)
def test_a_task_on_data_of_another_kind(
    command: list[str],
    kind: str,
    cause: str,
    data: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    code = run([*command, "--data", data[kind], "--out", str(out)])
    line = capsys.readouterr().err
    assert code == 2, line
    how = "without labels" if kind == "unlabelled" else f"for {kind}"
    assert f"was prepared {how}, but {cause}" in line
    assert line.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("network", "kind", "cause"),
    [
        ("classifier", "detection", "prepared for detection, but a class of each image"),
        ("classifier", "unlabelled", "prepared without labels, but a class of each image"),
        ("detector", "classification", "prepared for classification, but boxes are needed"),
        ("detector", "unlabelled", "prepared without labels, but boxes are needed"),
        ("dense", "classification", "is no classifier, detector or segmenter with classes"),
    ],
)
def test_evaluating_a_network_on_data_of_another_kind(
    network: str,
    kind: str,
    cause: str,
    data: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = str(tmp_path / "weights.safetensors")
    save_model(made(network), weights, {"classes": NAMES})
    out = tmp_path / "out"
    assert run(["evaluate", weights, "--data", data[kind], "--out", str(out)]) == 2
    assert cause in capsys.readouterr().err
    assert not list(out.rglob("*.json"))


def made(kind: str) -> Network:
    """A small network."""
    return {"classifier": classifier, "detector": rcnn, "dense": dense}[kind]()
