"""More workers than held-out images: who has none takes part and adds nothing, in every task."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.runs.journal import METRICS, PLOTS, read_lines
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.multilabel.config import MultiLabel
from itpn_ray.training.claim import run_folder
from tests.data.made import write_dataset
from tests.data.made_labels import write_multilabel
from tests.data.made_objects import write_scenes
from tests.pretrain.clip_net import make_clip
from tests.tasks.detection_runs import detection
from tests.training.group import train_each_in_group
from tests.training.runs import tiny, train_alone

HELD_OUT = 1
PLOT = {
    "pixel": ["reconstruction.png"],
    "clip": [],
    "classification": ["confusion.png"],
    "multilabel": [],
    "detection": ["detections.png"],
}


def make_configs(folder: Path, out: Path) -> dict[str, ExperimentConfig]:
    """One step of each task on four images, and an evaluation on one."""
    images, scenes = str(folder / "images"), str(folder / "set")
    pixel = tiny(images, out, run="pixel", workers=str(HELD_OUT + 1))
    teacher = ClipPretraining(
        teacher_model="clip_nano",
        teacher=str(folder / "clip.pt"),
        pyramid_width=16,
        smallest_block=1,
    )
    step = OptimConfig(global_batch=4, epochs=1, warmup_epochs=0, lr=1e-3)
    runs = [
        pixel,
        dataclasses.replace(pixel, run="clip", task=teacher),
        dataclasses.replace(pixel, run="classification", task=Classification(ema_decay=0.0)),
        dataclasses.replace(
            pixel, run="multilabel", task=MultiLabel(), data=str(folder / "labelled/shards")
        ),
        detection(scenes, out, run="detection", workers=pixel.workers),
    ]
    return {config.run: dataclasses.replace(config, optim=step) for config in runs}


def evaluated(config: ExperimentConfig) -> tuple[dict[str, Any], list[str]]:
    """Record of the only evaluation, and the names of what it has drawn."""
    folder = run_folder(config)
    (record,) = [r for r in read_lines(folder / METRICS) if r["split"] == "val"]
    plots = folder / PLOTS
    drawn = sorted(path.name for path in plots.iterdir()) if plots.is_dir() else []
    return record, drawn


@pytest.mark.workers
def test_a_worker_without_a_held_out_image_waits_for_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", {"train": [4], "val": [HELD_OUT]})
    write_scenes(tmp_path, train=4, val=HELD_OUT)
    write_multilabel(tmp_path / "labelled", train=5, val=HELD_OUT)
    torch.save(make_clip(32).state_dict(), tmp_path / "clip.pt")
    together = make_configs(tmp_path, tmp_path / "two")
    train_each_in_group(list(together.values()), HELD_OUT + 1)
    for name, config in make_configs(tmp_path, tmp_path / "one").items():
        alone = dataclasses.replace(config, workers="0")
        train_alone(alone)
        found, drawn = evaluated(together[name])
        expected, _ = evaluated(alone)
        assert found.keys() == expected.keys()
        assert found.get("loss", 0.0) == pytest.approx(expected.get("loss", 0.0), rel=1e-2)
        assert found.get("map") == expected.get("map")
        assert drawn == PLOT[name]
