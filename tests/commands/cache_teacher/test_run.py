"""Precomputed features train as the teacher itself does; wrong files are told before a start."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from itpn_ray import cli
from itpn_ray.commands.cache_teacher.config import CacheTeacherConfig
from itpn_ray.commands.cache_teacher.run import cache_teacher
from itpn_ray.data.config import AugmentConfig, LoaderConfig
from itpn_ray.data.store.teacher_features import read_features
from itpn_ray.errors import CheckpointError, ConfigError, DataError
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.terminal.console import Console
from itpn_ray.tracking.config import TrackingConfig
from itpn_ray.training.launch.driver import preflight, run
from tests.data.made import write_dataset
from tests.pretrain.clip_net import make_clip

QUIET = Console(verbosity="quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache-teacher")
    write_dataset(folder / "data", {"train": [20, 17], "val": [9]})
    torch.save(make_clip(32).state_dict(), folder / "clip.pt")
    return folder


def make_config(folder: Path, name: str, **task: object) -> ExperimentConfig:
    return ExperimentConfig(
        run=name,
        out=str(folder / "out"),
        data=str(folder / "data"),
        workers="0",
        seed=4,
        log_every=1,
        model=ModelConfig(name="fast_itpn_nano", image_size=32),
        task=ClipPretraining(
            teacher_model="clip_nano",
            pyramid_width=16,
            smallest_block=1,
            **task,  # type: ignore[arg-type]
        ),
        optim=OptimConfig(global_batch=16, epochs=2, warmup_epochs=1, lr=1e-3),
        loader=LoaderConfig(transport="threads", threads=1, prefetch=32),
        checkpoint=CheckpointConfig(every_steps=100),
        tracking=TrackingConfig(kind="none"),
    )


def write(folder: Path, name: str, **changes: object) -> str:
    """Write features as `itpn-ray cache-teacher` does."""
    experiment = make_config(folder, "cache-teacher", teacher=str(folder / "clip.pt"))
    config = CacheTeacherConfig(
        features=str(folder / name),
        views=2,
        batch=7,
        experiment=dataclasses.replace(experiment, **changes),  # type: ignore[arg-type]
    )
    cache_teacher(config, console=QUIET)
    return config.features


@pytest.fixture(scope="module")
def features(folder: Path) -> str:
    return write(folder, "features")


def losses(folder: Path) -> dict[tuple[str, int], float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {(line["split"], line["step"]): line["loss"] for line in lines if "loss" in line}


def test_both_ways_give_the_same_losses(folder: Path, features: str) -> None:
    """In two epochs of two views, and on the held-out images.

    Matrix products of other batches may differ in float32's last bits, before they are rounded to
    the float16 of both ways.
    """
    asking = run(
        make_config(folder, "asking", teacher=str(folder / "clip.pt")), command="", console=QUIET
    )
    reading = run(make_config(folder, "reading", features=features), command="", console=QUIET)
    found = losses(asking)
    assert {split for split, _ in found} == {"train", "val"}
    assert len(found) == 4 + 2
    assert losses(reading) == pytest.approx(found, rel=1e-5)


def test_ray_workers_write_the_same_features(folder: Path, features: str, ray_cluster: str) -> None:
    other = write(folder, "by_ray", workers="2", cpus_per_worker=0.5)
    ours, theirs = read_features(features), read_features(other)
    assert ours.settings == theirs.settings
    assert {name: split.images for name, split in ours.splits.items()} == {
        name: split.images for name, split in theirs.splits.items()
    }
    assert [len(view) for view in theirs.splits["train"].views] == [2, 2]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"augment": AugmentConfig(min_scale=0.5)}, "augment"),
        ({"augment": AugmentConfig(repeats=2)}, "augment"),
        ({"model": ModelConfig(name="fast_itpn_nano", image_size=48)}, r"model\.image_size"),
    ],
)
def test_features_of_other_views_are_refused(
    folder: Path, features: str, change: dict[str, object], field: str
) -> None:
    config = make_config(folder, "other", features=features)
    with pytest.raises(ConfigError, match=field):
        preflight(dataclasses.replace(config, **change))  # type: ignore[arg-type]


def test_a_wrong_teacher_is_told_before_anything_starts(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--task\.teacher FILE"):
        preflight(make_config(folder, "none"))
    with pytest.raises(CheckpointError, match="no such teacher file"):
        preflight(make_config(folder, "absent", teacher=str(folder / "absent.pt")))
    with pytest.raises(DataError, match="no finished features"):
        preflight(make_config(folder, "empty", features=str(folder / "data" / "train")))
    assert not (folder / "out" / "absent").exists()


def test_a_disk_too_small_is_told_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=10**9, used=10**9 - 100, free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match="the features need"):
        write(folder, "large")


def test_only_clip_recipes_have_features(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["cache-teacher", "nano", "--data", str(folder / "data")]) == 2
    assert "has no CLIP teacher" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="names no place"):
        cache_teacher(CacheTeacherConfig(experiment=make_config(folder, "x")), console=QUIET)
