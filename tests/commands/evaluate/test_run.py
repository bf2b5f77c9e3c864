"""Evaluation from a weight file alone: what is written, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from itpn_ray.commands.config import EvaluateConfig
from itpn_ray.commands.evaluate.run import evaluate
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import CheckpointError, ConfigError, DataError
from itpn_ray.models import create_model, to_official
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


def test_other_classes_are_refused(prepared: str, detector: str, tmp_path: Path) -> None:
    config = EvaluateConfig(weights=detector, data=prepared, out=str(tmp_path))
    with pytest.raises(DataError, match="has other classes than"):
        evaluate(config, command="", console=Console())
    assert not list(tmp_path.iterdir())


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
