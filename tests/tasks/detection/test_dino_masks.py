"""DINO with masks, from training to evaluation and prediction."""

from __future__ import annotations

import io
import json
from pathlib import Path

from itpn_ray import cli
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.models import load_model
from itpn_ray.terminal.console import Console
from itpn_ray.training.launch import driver
from tests.tasks.detection_runs import detection


def test_it_is_trained_evaluated_and_used(scenes: str, tmp_path: Path) -> None:
    config = detection(scenes, tmp_path / "out", "dino", masks=True)
    run = driver.run(config, command="detect", console=Console(stream=io.StringIO()))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"mask", "dice", "denoising_mask", "denoising_dice"} <= records[0].keys()
    trained = next(r for r in records if r["split"] == "val")
    weights = run / "exported" / "model.safetensors"
    assert load_model(weights).config.masks

    assert cli.run(["evaluate", str(run), "--data", scenes, "--out", str(tmp_path / "found")]) == 0
    (results,) = (tmp_path / "found").rglob("results.json")
    assert json.loads(results.read_text())["mask_AP"] == trained["mask_AP"]

    image = tmp_path / "images" / "one.jpg"
    image.parent.mkdir()
    image.write_bytes(open_dataset(scenes, "val")[0]["image"])
    command = ["predict", str(run), str(image.parent), "--out", str(tmp_path / "predicted")]
    assert cli.run([*command, "--min-score", "0"]) == 0
    found = json.loads((tmp_path / "predicted" / "results.json").read_text())
    assert found
    assert all("segmentation" in entry for entry in found)
