"""Evaluation from a weight file alone: what is written, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from itpn_ray.commands.evaluate.config import EvaluateConfig
from itpn_ray.commands.evaluate.run import _difference, evaluate
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import CheckpointError, ConfigError, DataError
from itpn_ray.formatting import show_interval
from itpn_ray.models import create_model, to_official
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.classification.task import ClassificationTask
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.terminal.console import Console
from tests.tasks.detection_runs import task


@pytest.fixture(scope="module", params=["mask_rcnn", "dino"])
def detector(
    request: pytest.FixtureRequest, scenes: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Weights of a detector that was not trained, of the images' classes."""
    own = task(request.param, scenes=scenes)
    own.classes = list(open_dataset(scenes, "val").classes)
    path = tmp_path_factory.mktemp("detector") / f"{request.param}.safetensors"
    own.export(own.build(), path)
    return str(path)


def test_a_detector_at_several_ratios(
    detector: str, scenes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(
        weights=detector,
        data=scenes,
        migration=(0.0, 0.5),
        window=4,
        gathering=True,
        threads=1,
        out=str(tmp_path),
    )
    folder = evaluate(config, command="itpn-ray evaluate ...", console=Console())
    results = json.loads((folder / "results.json").read_text())
    rows = results["migration"]
    assert [row["migration"] for row in rows] == [0.0, 0.5]
    assert all(row["images_per_s"] > 0 and row["box_AP"] >= 0 for row in rows)
    assert ("mask_AP" in rows[0]) == ("mask_rcnn" in detector)
    assert results["images"] == 5
    assert len(results["per_class"]) == len(open_dataset(scenes, "val").classes)
    for name in ("detections_r0.json", "detections_r0.5.json"):
        entries = json.loads((folder / name).read_text())
        assert all(
            {"image_id", "category_id", "bbox", "score"} <= entry.keys() for entry in entries
        )
    assert (folder / "plots" / "detections.png").exists()
    report = (folder / "report.html").read_text()
    assert "Token migration" in report
    assert "Classes, worst first" in report
    said = capsys.readouterr().out
    assert "r = 0.5" in said
    assert "box AP" in said


@pytest.fixture(scope="module")
def classifier(prepared: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a classifier that was not trained, of the images' classes."""
    task = ClassificationTask(
        TaskSetup(
            config=Classification(),
            model=ModelConfig(name="fast_itpn_nano", image_size=32),
            classes=open_dataset(prepared, "val").classes,
            seed=0,
        )
    )
    path = tmp_path_factory.mktemp("classifier") / "weights.safetensors"
    task.export(task.build(), path)
    return str(path)


def test_a_folder_holds_one_evaluation(
    classifier: str,
    detector: str,
    prepared: str,
    scenes: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = {"threads": 1, "out": str(tmp_path)}
    first = EvaluateConfig(weights=classifier, data=prepared, migration=(0.0, 0.5), **place)
    second = EvaluateConfig(weights=detector, data=scenes, **place)

    def records(config: EvaluateConfig) -> tuple[Path, set[str], dict[str, Any]]:
        folder = evaluate(config, command="", console=Console())
        assert json.loads((folder / "config.json").read_text())["weights"] == config.weights
        files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        return folder, files, json.loads((folder / "results.json").read_text())

    folder, files, results = records(first)
    assert {"plots/confusion.png", "plots/mistakes.png"} <= files
    events = (folder / "events.jsonl").read_text().splitlines()
    assert len(results["migration"]) == 2
    (folder / "notes.txt").write_text("mine")
    _, files, results = records(second)
    assert not {"top1", "mistakes", "mean_recall"} & results.keys()
    assert not {"plots/confusion.png", "plots/mistakes.png"} & files
    assert {"plots/detections.png", "detections_r0.json", "notes.txt"} <= files
    assert f"held an evaluation of {classifier}, which this one replaces" in capsys.readouterr().out
    _, files, results = records(replace(first, migration=(0.5,)))
    assert [row["migration"] for row in results["migration"]] == [0.5]
    assert not {"detections_r0.json", "plots/detections.png"} & files
    assert "box_AP" not in results
    assert len((folder / "events.jsonl").read_text().splitlines()) == len(events)


def test_what_is_no_evaluation_is_left_alone(
    classifier: str, prepared: str, tmp_path: Path
) -> None:
    config = EvaluateConfig(weights=classifier, data=prepared, out=str(tmp_path), run="fine")
    for name in ("config.json", "metrics.jsonl"):
        folder = tmp_path / "fine"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text('{"task": {}}')
        with pytest.raises(ConfigError, match="holds something else than an evaluation"):
            evaluate(config, command="", console=Console())
        assert [path.name for path in folder.iterdir()] == [name]
        (folder / name).unlink()


def test_an_evaluation_says_how_sure_it_is(
    classifier: str, prepared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(weights=classifier, data=prepared, threads=1, out=str(tmp_path))
    folder = evaluate(config, command="", console=Console())
    results = json.loads((folder / "results.json").read_text())
    (row,) = results["migration"]
    assert results["images"] == len(open_dataset(prepared, "val")) == 30
    assert row["images_per_s_low"] <= row["images_per_s"] <= row["images_per_s_high"]
    interval = show_interval("top1", row["top1"], 30)
    said = capsys.readouterr().out
    assert f"top-1 {100 * row['top1']:.1f} % ({interval}, n = 30)" in said
    assert f", n = {row['timings']})" in said
    page = (folder / "report.html").read_text()
    assert "Intervals of 95 % over 30 images" in page
    assert "Wrong answers, surest first" in page
    wrong = round(30 * (1 - row["top1"]))
    assert len(results["mistakes"]) == wrong > 0
    data = open_dataset(prepared, "val")
    labels = {data[i]["path"]: data.classes[data[i]["label"]] for i in range(len(data))}
    for mistake in results["mistakes"]:
        assert mistake["class"] == labels[mistake["path"]] != mistake["answer"]
        assert mistake["path"] in page


def test_other_classes_are_refused(prepared: str, detector: str, tmp_path: Path) -> None:
    config = EvaluateConfig(weights=detector, data=prepared, out=str(tmp_path))
    with pytest.raises(DataError, match="prepared for classification, but boxes are needed"):
        evaluate(config, command="", console=Console())
    assert not list(tmp_path.iterdir())


def test_what_is_different_in_classes_is_told() -> None:
    network = [f"c{n}" for n in range(10)]
    told = "it has 9 classes, the network 10; missing: c9"
    assert _difference(network[:9], network) == told
    told = (
        "it has 1 class, the network 10; missing: c0, c1, c2, c3, c4, c5, c6, c7 and 2 more; "
        "unknown to the network: cat"
    )
    assert _difference(["cat"], network) == told
    told = "it has 10 classes, the network 10; the same ones in another order"
    assert _difference(network[::-1], network) == told


def test_an_authors_file_takes_the_classes_of_the_data(
    prepared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = open_dataset(prepared, "val").classes
    model = create_model("nano", num_classes=len(classes), image_size=32)
    state = {f"module.{name}": tensor for name, tensor in to_official(model).items()}
    path = tmp_path / "authors.pth"
    torch.save({"model": state, "model_ema": state, "best": np.float64(0.8)}, path)
    config = EvaluateConfig(weights=str(path), data=prepared, threads=1, out=str(tmp_path))
    folder = evaluate(config, command="", console=Console())
    results = json.loads((folder / "results.json").read_text())
    assert {row["name"] for row in results["per_class"]} == set(classes)
    said = capsys.readouterr().out
    assert "took model of model, model_ema" in said
    assert "names no classes" in said
    with pytest.raises(CheckpointError, match="it has model, model_ema"):
        evaluate(replace(config, key="average"), command="", console=Console())


def test_gathering_tokens_need_windows() -> None:
    with pytest.raises(ConfigError, match=r"belong to windows\. Add --window 16"):
        EvaluateConfig(weights="weights", data="data", gathering=True)
