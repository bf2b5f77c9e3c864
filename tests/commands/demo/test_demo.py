"""The demo: its photographs, and what it trains on them. `make demo` runs it."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from itpn_ray.commands.demo import recipes
from itpn_ray.commands.demo.config import DemoConfig
from itpn_ray.commands.demo.run import _shown, _told
from itpn_ray.data.photographs import unpack_photographs
from itpn_ray.models.zoo import SCHEME, entries
from itpn_ray.tasks.elastic import metric_at
from itpn_ray.terminal.console import Console
from itpn_ray.training.launch.driver import preflight
from itpn_ray.tuning.sweep import _preflight as preflight_sweep

CONFIG = DemoConfig()


def test_the_photographs_are_whole_and_balanced(tmp_path: Path) -> None:
    folder = unpack_photographs(tmp_path / "photographs")
    for split, count in (("train", 100), ("val", 40)):
        found = {one.name: len(list(one.glob("*.jpg"))) for one in (folder / split).iterdir()}
        assert len(found) == 5
        assert set(found.values()) == {count}
    for path in folder.rglob("*.jpg"):
        with Image.open(path) as image:
            assert min(image.size) == 144
    first = next(folder.rglob("*.jpg"))
    stamp = first.stat().st_mtime_ns
    assert unpack_photographs(folder) == folder
    assert first.stat().st_mtime_ns == stamp


def test_fine_tunings_that_are_compared_differ_by_their_start_alone(tmp_path: Path) -> None:
    tuned, scratch = (
        recipes.finetuning(CONFIG, tmp_path, "data", init=init, seed=1) for init in ("weights", "")
    )
    model = dataclasses.replace(scratch.model, init="weights")
    assert dataclasses.replace(scratch, run=tuned.run, model=model) == tuned
    assert recipes.finetuning(CONFIG, tmp_path, "data", init="", seed=2).seed == 2


def test_pretraining_goes_on_from_the_zoo(tmp_path: Path) -> None:
    settings = recipes.pretraining(CONFIG, tmp_path, "data")
    entry = entries()[settings.model.init.removeprefix(SCHEME)]
    assert entry.network == settings.model.name
    assert entry.task == settings.task.name


def test_a_trial_of_the_sweep_serves_every_ratio(tmp_path: Path) -> None:
    settings = recipes.tuning(CONFIG, tmp_path, "data", "weights")
    assert settings.finetune.model.elastic_migration == recipes.RATIOS
    assert not settings.pretrains
    assert [metric_at("top1", ratio) for ratio in recipes.RATIOS] == [
        "top1", "top1_r0.4", "top1_r0.8",
    ]  # fmt: skip


def test_all_that_the_demo_trains_passes_preflight(
    prepared: str, scenes: str, tmp_path: Path
) -> None:
    assert preflight(recipes.pretraining(CONFIG, tmp_path, prepared)) is not None
    weights = recipes.START
    for init in (weights, ""):
        report = preflight(recipes.finetuning(CONFIG, tmp_path, prepared, init=init, seed=0))
        assert (report is not None) == bool(init)
    assert preflight(recipes.detection(CONFIG, tmp_path, scenes, weights)) is not None
    preflight_sweep(recipes.tuning(CONFIG, tmp_path, prepared, weights))


def test_several_seeds_are_told_with_their_spread() -> None:
    assert _shown([0.5, 0.52, 0.54]) == "52.0 ± 2.0 % (3 seeds)"
    assert _shown([0.5]) == "50.0 %"


def test_what_the_demo_says_at_its_end(prepared: str, tmp_path: Path) -> None:
    def done(name: str, **results: object) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        return tmp_path / name

    out = io.StringIO()
    told = _told(
        prepared,
        done("pretrain", knn_top1=0.3),
        [done(f"finetune-{n}", top1=0.5 + 0.02 * n) for n in range(3)],
        [done(f"scratch-{n}", top1=0.3 + 0.01 * n) for n in range(3)],
        done("tune", answer="trial-001 with r = 0.3"),
        done("detect"),
        Console(stream=out),
    )
    rows = told["comparison"]
    assert [row["top1"] for row in rows][1:] == pytest.approx([0.3, 0.31, 0.52])
    lines = out.getvalue().splitlines()
    assert "nearest neighbours, pre-trained: 30.0 % (chance 10 %)" in lines[1]
    assert "fine-tuned from random weights: 31.0 ± 1.0 % (3 seeds)" in lines[2]
    assert "fine-tuned from pre-trained weights: 52.0 ± 2.0 % (3 seeds)" in lines[3]
    assert "sweep: trial-001 with r = 0.3" in lines[4]
    assert lines[5].endswith("report.html")
