"""What the driver says of a run."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.models import LoadReport
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.config import TaskConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.terminal.console import Console
from itpn_ray.training.launch import driver
from tests.data.made import write_dataset
from tests.training.runs import classification


def not_trained(*given: Any) -> None:
    """In the place of a training."""
    del given


def test_a_resumed_run_does_not_tell_of_initial_weights_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = LoadReport(
        loaded=("a",), resized=(), missing=(), mismatched=(), unexpected=(), fraction=1.0
    )

    monkeypatch.setattr(driver, "preflight", lambda config: report)
    monkeypatch.setattr(driver, "_train", not_trained)
    data = write_dataset(tmp_path / "set", {"train": [10, 10], "val": [2, 2]})
    config = classification(data, tmp_path / "out")
    said = []
    for _ in range(2):
        stream = io.StringIO()
        driver.run(config, command="finetune", console=Console(stream=stream))
        said.append(stream.getvalue())
    assert "loaded 1 tensor (100.0%)" in said[0]
    assert "loaded" not in said[1]


@pytest.mark.parametrize("task", [Classification(), PixelPretraining()])
def test_classes_without_training_images_are_told_where_classes_are_learned(
    task: TaskConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "preflight", lambda config: None)
    monkeypatch.setattr(driver, "_train", not_trained)
    # Rows are of classes 0, 1, 2, 0, ..., so that class c is in the second split alone.
    data = write_dataset(tmp_path / "set", {"train": [2], "val": [3]})
    config = dataclasses.replace(classification(data, tmp_path / "out"), task=task)
    stream = io.StringIO()
    driver.run(config, command="a verb", console=Console(stream=stream))
    told = "warning: 1 of 3 classes are in other splits and not in train, such as c: never learned"
    assert (told in stream.getvalue()) == isinstance(task, Classification)
