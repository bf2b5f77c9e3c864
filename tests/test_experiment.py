"""The composed settings: what of them is a path, and what can be left out of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from itpn_ray.experiment import ExperimentConfig, with_absolute_paths
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.registry import BUILT_IN, settings_class


def test_every_local_path_of_a_run_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = ExperimentConfig(task=ClipPretraining(features="features"), out="out", data="s3://b/d")
    loader = dataclasses.replace(plain.loader, cache_dir="cache")
    found = with_absolute_paths(dataclasses.replace(plain, loader=loader))
    assert isinstance(found.task, ClipPretraining)
    assert (found.task.features, found.task.teacher) == (str(tmp_path / "features"), "")
    assert (found.out, found.data) == (str(tmp_path / "out"), "s3://b/d")
    assert found.loader.cache_dir == str(tmp_path / "cache")
    teacher = dataclasses.replace(plain, task=ClipPretraining(teacher="clip.pt"))
    assert with_absolute_paths(teacher).task.teacher == str(tmp_path / "clip.pt")


def test_fields_that_tasks_tell_of_are_their_own() -> None:
    for name in BUILT_IN:
        settings = settings_class(name)
        fields = {field.name for field in dataclasses.fields(settings)}
        assert {*settings.path_fields, *settings.view_fields, *settings.speed_fields} <= fields
