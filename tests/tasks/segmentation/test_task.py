"""Runs of segmentation: resumed to the bit, shared among workers, evaluated, and asked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from itpn_ray.commands.evaluate.config import EvaluateConfig
from itpn_ray.commands.evaluate.run import _at, evaluate
from itpn_ray.commands.predict.config import PredictConfig
from itpn_ray.commands.predict.files import mask_name
from itpn_ray.commands.predict.run import predict
from itpn_ray.data.annotations.run_lengths import decode, from_text
from itpn_ray.data.config import SegmentationAugmentConfig
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.models import Segmenter
from itpn_ray.runs.journal import METRICS, read_lines
from itpn_ray.tasks.classification.task import ClassificationTask
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.terminal.console import Console
from itpn_ray.training.claim import run_folder
from itpn_ray.training.exporting import export
from tests.data.made import make_image
from tests.training.group import train_in_group
from tests.training.runs import final_digest, losses, tiny, train_alone, train_and_stop


def segmentation(masked: str, out: Path, head: str = "upernet", **changes: Any) -> ExperimentConfig:
    """Four steps of a nano segmenter on crops of 64 px, with everything random on."""
    config = dataclasses.replace(
        tiny(masked, out),
        model=ModelConfig(name="fast_itpn_nano", image_size=64, drop_path=0.2),
        task=Segmentation(
            head=head,
            width=16 if head == "upernet" else 64,
            small_head=head != "upernet",
            short_side=64,
            long_side=128,
            window=64,
            stride=43,
            ema_decay=0.5,
        ),
        optim=OptimConfig(
            global_batch=4, epochs=2, warmup_epochs=0, warmup_steps=2, lr=1e-3, linear=True
        ),
        augment=SegmentationAugmentConfig(short_side=64, long_side=128, crop_size=64),
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("head", ["upernet", "mask_dino"])
def test_a_resumed_run_ends_with_the_same_bits(
    head: str, masked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = segmentation(masked, tmp_path / "whole", head)
    records = train_alone(whole)
    assert len(losses(records)) == 4
    cut = segmentation(masked, tmp_path / "cut", head)
    train_and_stop(cut, monkeypatch, 3)
    train_alone(cut)
    assert final_digest(cut) == final_digest(whole)


@pytest.mark.workers
@pytest.mark.parametrize("head", ["upernet", pytest.param("mask_dino", marks=pytest.mark.slow)])
def test_two_workers_take_the_steps_of_one(head: str, masked: str, tmp_path: Path) -> None:
    alone = segmentation(masked, tmp_path / "one", head)
    records = train_alone(alone)
    together = dataclasses.replace(alone, out=str(tmp_path / "two"), workers="2")
    train_in_group(together, 2)
    found = read_lines(run_folder(together) / METRICS)
    assert losses(found) == pytest.approx(losses(records), rel=1e-3)
    (first,), (second,) = ([r for r in part if r["split"] == "val"] for part in (records, found))
    assert second.keys() == first.keys()
    for name in ("miou", "macc", "aacc", "miou_all"):
        assert second[name] == pytest.approx(first[name], abs=0.02)


@pytest.fixture(scope="module")
def trained(masked: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    config = segmentation(masked, tmp_path_factory.mktemp("run"))
    train_alone(config)
    export(config, run_folder(config))
    return run_folder(config)


def test_evaluation_repeats_the_figures_of_the_run(
    trained: Path, masked: str, tmp_path: Path
) -> None:
    config = EvaluateConfig(
        weights=str(trained), data=masked, out=str(tmp_path), migration=(0.0, 0.4)
    )
    folder = evaluate(config, command="", console=Console())
    results = json.loads((folder / "results.json").read_text())
    run = json.loads((trained / "results.json").read_text())
    plain, migrated = results["migration"]
    for name in ("miou", "macc", "aacc"):
        assert plain[name] == pytest.approx(run[name], abs=1e-9)
    assert migrated["migration"] == 0.4
    assert migrated["images_per_s"] > 0
    assert len(results["per_class"]) == 11
    assert (folder / "plots/masks.png").is_file()


def test_predictions_are_masks_shares_and_drawings(trained: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for row, name in enumerate(("a.jpg", "b.png")):
        make_image(row, 70, 45).save(folder / name)
    config = PredictConfig(weights=str(trained), folder=str(folder), out=str(out), workers=0)
    predict(config, console=Console())
    results = json.loads((out / "results.json").read_text())
    assert [entry["file_name"] for entry in results] == ["a.jpg", "b.png"]
    for entry in results:
        mask = np.asarray(Image.open(out / "masks" / mask_name(entry["file_name"])))
        assert mask.shape == (45, 70)
        shares = {found["label"]: found["share"] for found in entry["classes"]}
        assert shares == pytest.approx(
            {n: float((mask == n).mean()) for n in np.unique(mask)}, abs=1e-6
        )
    assert sorted(path.name for path in (out / "drawn").iterdir()) == ["a.jpg", "b.png.jpg"]


def test_predicted_masks_are_run_lengths_too(trained: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    make_image(3, 70, 45).save(folder / "a.png")
    config = PredictConfig(
        weights=str(trained), folder=str(folder), out=str(out), workers=0, draw_side=0
    )
    predict(config, console=Console())
    (entry,) = json.loads((out / "results.json").read_text())
    mask = np.asarray(Image.open(out / "masks" / mask_name("a.png")))
    for found in entry["classes"]:
        size, counts = found["segmentation"]["size"], found["segmentation"]["counts"]
        assert size == [45, 70]
        assert np.array_equal(decode(from_text(counts), *size), mask == found["label"])


def test_evaluation_sees_several_sizes_where_asked(trained: Path, masked: str) -> None:
    config = EvaluateConfig(weights=str(trained), data=masked, scales=(1.0, 1.5), mirror=True)
    network = _at(config, 0.0)
    assert isinstance(network, Segmenter)
    assert (network.viewing.scales, network.viewing.mirror) == ((1.0, 1.5), True)
    assert network.viewing.window == 64
    with pytest.raises(ConfigError, match=r"scales = 0\.01"):
        EvaluateConfig(weights="", data="", scales=(0.01,))


def test_only_segmenters_see_several_sizes() -> None:
    with pytest.raises(ConfigError, match=r"mirror = True.*for segmenters"):
        ClassificationTask.look(nn.Identity(), (1.0,), True)  # type: ignore[arg-type]


def test_names_of_masks_stay_apart() -> None:
    paths = ["a.jpg", "a.png", "a.png.jpg", "a.jpeg", "b/a.jpg", "y" * 251 + ".png", "a.JPG"]
    named = [mask_name(path) for path in paths]
    assert len(set(named)) == len(paths)
    assert named[0] == "a.png"
    assert all(name.endswith(".png") and len(name.encode()) <= 255 for name in named)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"head": "uperned"}, "Did you mean 'upernet'"),
        ({"head": "upernet", "small_head": True}, r"task\.small_head = True: upernet has none"),
        ({"head": "mask_dino", "width": 100}, r"task\.width = 100: is no multiple of 64"),
        ({"scales": (0.0,)}, r"task\.scales = 0\.0"),
        ({"stride": 600}, r"task\.stride = 600"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Segmentation(**fields)


def test_compilation_is_refused(masked: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.compile"):
        segmentation(masked, tmp_path, model=ModelConfig(compile=True))
