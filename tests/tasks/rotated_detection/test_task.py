"""Rotated detection in the one loop: resume, workers, trained networks, wrong pairs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from itpn_ray.commands.evaluate.config import EvaluateConfig
from itpn_ray.commands.evaluate.run import evaluate
from itpn_ray.commands.predict.config import PredictConfig
from itpn_ray.commands.predict.run import predict
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import CheckpointError, ConfigError, DataError
from itpn_ray.models import RotatedRcnn, load_model
from itpn_ray.runs.journal import METRICS, read_lines
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.registry import settings_of_file, task_class
from itpn_ray.tasks.rotated_detection.config import RotatedDetection
from itpn_ray.terminal.console import Console
from itpn_ray.training.claim import run_folder
from itpn_ray.training.exporting import export
from itpn_ray.training.launch.driver import preflight
from tests.data.made import make_image
from tests.tasks.detection_runs import detection, task
from tests.tasks.rotated_runs import rotated
from tests.training.group import train_in_group
from tests.training.runs import classification, final_digest, losses, train_alone, train_and_stop

METRIC_NAMES = ("rotated_AP50", "rotated_AP75", "rotated_AP")


def test_a_stopped_run_ends_bit_equal(
    turned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rotated(turned, tmp_path / "whole")
    records = train_alone(whole)
    assert len(losses(records)) >= 4
    stopped = rotated(turned, tmp_path / "stopped")
    train_and_stop(stopped, monkeypatch, 3)
    assert losses(train_alone(stopped)) == losses(records)
    assert final_digest(stopped) == final_digest(whole)
    found = next(record for record in records if record["split"] == "val")
    assert set(METRIC_NAMES) <= found.keys()
    folder = run_folder(whole)
    assert (folder / "plots" / "detections.png").exists()
    table = json.loads((folder / "results.json").read_text())["per_class"]
    assert len(table) == len(open_dataset(turned, "val").classes)


@pytest.mark.workers
def test_two_workers_take_the_steps_of_one(turned: str, tmp_path: Path) -> None:
    alone = rotated(turned, tmp_path / "one")
    records = train_alone(alone)
    together = dataclasses.replace(alone, out=str(tmp_path / "two"), workers="2")
    train_in_group(together, 2)
    found = read_lines(run_folder(together) / METRICS)
    # Few digits: with the order of sums, picks among nearly equal proposals change.
    assert losses(found) == pytest.approx(losses(records), rel=1e-2)
    (first,), (second,) = ([r for r in part if r["split"] == "val"] for part in (records, found))
    assert second.keys() == first.keys()
    for name in METRIC_NAMES:
        assert second[name] == pytest.approx(first[name], abs=0.01)


@pytest.fixture(scope="module")
def trained(turned: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    config = rotated(turned, tmp_path_factory.mktemp("run"))
    train_alone(config)
    export(config, run_folder(config))
    return run_folder(config)


def test_the_file_says_how_images_are_cut_and_shown(trained: Path) -> None:
    weights = trained / "exported" / "model.safetensors"
    network = load_model(weights)
    assert isinstance(network, RotatedRcnn)
    assert (network.view, network.tiles) == ((64, 64), (96, 32))
    assert settings_of_file(str(trained)) is RotatedDetection


def test_evaluation_repeats_the_figures_of_the_run(
    trained: Path, turned: str, tmp_path: Path
) -> None:
    config = EvaluateConfig(
        weights=str(trained), data=turned, out=str(tmp_path), migration=(0.0, 0.4)
    )
    folder = evaluate(config, command="", console=Console())
    results = json.loads((folder / "results.json").read_text())
    run = json.loads((trained / "results.json").read_text())
    plain, migrated = results["migration"]
    for name in METRIC_NAMES:
        assert plain[name] == pytest.approx(run[name], abs=1e-9)
    assert migrated["migration"] == 0.4
    assert migrated["images_per_s"] > 0
    classes = open_dataset(turned, "val").classes
    assert {path.name for path in (folder / "task1_r0.4").iterdir()} == {
        f"Task1_{name}.txt" for name in classes
    }


def test_predictions_are_of_whole_images(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an image of three tiles and one smaller than a tile."""
    seen: list[tuple[int, ...]] = []
    detect = RotatedRcnn.detect

    def recording(network: RotatedRcnn, images: torch.Tensor, sizes: torch.Tensor) -> Any:
        seen.append(tuple(images.shape))
        return detect(network, images, sizes)

    monkeypatch.setattr(RotatedRcnn, "detect", recording)
    monkeypatch.setattr("itpn_ray.models.rotated.roi_head.SCORE", 0.0)
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    make_image(1, 200, 90).save(folder / "P1.png")
    make_image(2, 60, 40).save(folder / "P2.png")
    config = PredictConfig(weights=str(trained), folder=str(folder), out=str(out), workers=0)
    predict(config, console=Console())
    assert [shape[0] for shape in seen] == [3, 1]
    results = json.loads((out / "results.json").read_text())
    images = json.loads((out / "images.json").read_text())
    assert [image["file_name"] for image in images["images"]] == ["P1.png", "P2.png"]
    assert {entry["image_id"] for entry in results} == {1, 2}
    assert max(max(entry["segmentation"][0][0::2]) for entry in results) > 110  # beyond a tile
    lines = [
        line
        for path in (out / "submission").glob("Task1_*.txt")
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == len(results)
    assert {line.split()[0] for line in lines} == {"P1", "P2"}
    assert sorted(path.name for path in (out / "drawn").iterdir()) == ["P1.png.jpg", "P2.png.jpg"]


def test_wrong_pairs_of_task_and_data_are_refused(
    turned: str, scenes: str, prepared: str, masked: str, tmp_path: Path
) -> None:
    pairs = [
        (rotated(scenes, tmp_path), "for detection, but turned boxes are needed"),
        (rotated(prepared, tmp_path), "for classification, but turned boxes are needed"),
        (rotated(masked, tmp_path), "for segmentation, but turned boxes are needed"),
        (detection(turned, tmp_path), r"fast_itpn_base_rotated_1x"),
        (classification(turned, tmp_path), "for rotated detection, but a class of each image"),
    ]
    for config, expected in pairs:
        optim = dataclasses.replace(config.optim, global_batch=2, warmup_steps=0)
        with pytest.raises(DataError, match=expected):
            preflight(dataclasses.replace(config, optim=optim))


def test_wrong_pairs_of_weights_and_data_are_refused(
    trained: Path, scenes: str, turned: str, tmp_path: Path
) -> None:
    config = EvaluateConfig(weights=str(trained), data=scenes, out=str(tmp_path))
    with pytest.raises(DataError, match="turned boxes are needed"):
        evaluate(config, command="", console=Console())
    upright, weights = task(scenes=scenes), str(tmp_path / "model.safetensors")
    upright.export(upright.build(), Path(weights))
    config = EvaluateConfig(weights=weights, data=turned, out=str(tmp_path))
    with pytest.raises(DataError, match="fast_itpn_base_rotated_1x"):
        evaluate(config, command="", console=Console())
    with pytest.raises(CheckpointError):
        task_class(RotatedDetection).load(weights)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"window_position": "windows"}, r"model\.window_position.*Add --model\.window 16"),
        ({"window": 4, "window_position": "windows+cross"}, "there are none"),
        ({"window": 4, "window_position": "rows"}, "is not known"),
    ],
)
def test_positions_of_windows_need_windows(model: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        ModelConfig(**model)


def test_windows_train_with_their_positions(turned: str, tmp_path: Path) -> None:
    """Table 7's last row: windows, gathering tokens and both relative positions."""
    model = ModelConfig(
        name="fast_itpn_nano",
        image_size=64,
        window=2,
        gathering=True,
        window_position="windows+cross",
    )
    config = rotated(turned, tmp_path, model=model, eval_every=-1)
    assert all(loss > 0 for loss in losses(train_alone(config)))
