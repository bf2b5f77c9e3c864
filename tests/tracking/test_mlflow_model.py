"""What MLflow keeps of a run: its data by content, its source, and its network as a model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.models import save_model
from itpn_ray.tracking import mlflow_model
from itpn_ray.tracking.base import DataSource
from itpn_ray.tracking.config import TrackingConfig
from itpn_ray.tracking.mlflow import MlflowTracker
from itpn_ray.training.launch.driver import preflight
from tests.models.nets import classifier
from tests.training.runs import tiny

DATA = DataSource(uri="/sets/clothes", digest="ab" * 32, images={"train": 9, "val": 1})
NAMES = [f"class {number}" for number in range(10)]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(classifier(), path, {"classes": json.dumps(NAMES), "task": "classification"})
    return path


def test_the_commit_is_that_of_a_checkout_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(words: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 0, f"{'b' * 40}\n{'c' * 40}\n", "")

    def refuse(words: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        raise subprocess.CalledProcessError(128, words)

    for run, commit in ((answer, "c" * 40), (refuse, "")):
        monkeypatch.setattr(subprocess, "run", run)
        assert mlflow_model.package_commit() == commit


def test_a_server_that_does_not_answer_costs_a_warning(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr(mlflow_model, "_save", lambda folder, weights: None)

    class Silent:
        def log_inputs(self, *given: object) -> None:
            raise MlflowException("away")

        def log_artifacts(self, *given: object) -> None:
            raise MlflowException("away")

    tracker = MlflowTracker("http://127.0.0.1:1", "ours", system_interval=0)
    monkeypatch.setattr(tracker, "_client", Silent())
    tracker.log_source("command", DATA)
    tracker.log_model(weights, "clothes")
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "MLflow did not take the run's data",
        "MLflow did not register clothes",
    ]


def test_what_cannot_be_registered_is_refused(prepared: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.register = 'a': needs MLflow"):
        TrackingConfig(kind="none", register="a")
    with pytest.raises(ConfigError, match=r"tracking\.register = 'a/b': is no name"):
        TrackingConfig(register="a/b")
    config: ExperimentConfig = tiny(prepared, tmp_path, tracking=TrackingConfig(register="a"))
    with pytest.raises(ConfigError, match=r"tracking\.register.*pixel_pretraining do not"):
        preflight(config)
