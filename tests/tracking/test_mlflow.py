import contextlib
import io
import json
import logging
import math
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import torch
from PIL import Image

from itpn_ray.errors import ConfigError
from itpn_ray.models import load_model, save_model
from itpn_ray.tracking import TrackingConfig, create_tracker, tracking_uri
from itpn_ray.tracking.base import DataSource
from itpn_ray.tracking.mlflow import KEY_TAG, MlflowTracker
from tests.data.made import jpeg, make_image
from tests.models.nets import classifier

DATA = DataSource(uri="/sets/clothes", digest="ab" * 32, images={"train": 9, "val": 1})
NAMES = [f"class {number}" for number in range(10)]

FIRST_START = """
import socket, sys
def refuse(*address): raise SystemExit("network")
socket.socket.connect = refuse
from itpn_ray.tracking import TrackingConfig, create_tracker
tracker = create_tracker(TrackingConfig(), sys.argv[1])
tracker.start("run", {"a": 1}, key="first")
tracker.log_metrics({"loss": 1.0}, 0)
tracker.finish()
"""


@pytest.fixture(scope="module")
def first_start(tmp_path_factory):
    """A new database and what its making printed; one for all tests, because it takes seconds."""
    folder = tmp_path_factory.mktemp("tracking") / "out"
    command = [sys.executable, "-c", FIRST_START, str(folder)]
    return folder, subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def out(first_start):
    return first_start[0]


@pytest.fixture
def tracker(out):
    def make(experiment: str = "itpn_ray", **options) -> MlflowTracker:
        uri = tracking_uri(TrackingConfig(), out)
        options.setdefault("system_interval", 0)
        return MlflowTracker(uri, experiment, artifacts=out / "mlartifacts", **options)

    return make


@pytest.fixture
def client(out):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(TrackingConfig(), out))


def runs_of(client, key: str):
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(ids, filter_string=f"tags.`{KEY_TAG}` = '{key}'")


def test_a_run_holds_parameters_metrics_and_artifacts(tracker, client, tmp_path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"uri": "s3://key:hunter2@bucket"}')
    plot = tmp_path / "curve.png"
    plot.write_bytes(b"\x89PNG\x00\xff")
    one = tracker()
    one.start("nano", {f"p{i}": i for i in range(250)} | {"uri": "s3://a:hunter2@c"}, key="whole")
    one.log_metrics({"loss": 2.0, "val/top1": 0.25}, 0)
    one.log_metrics({"loss": math.nan}, 1)
    one.log_metrics({"loss": 1.0}, 2)
    one.log_artifact(config, "config")
    one.log_artifact(plot, "plots")
    one.finish()

    (run,) = runs_of(client, "whole")
    assert run.info.run_name == "nano"
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 251
    assert run.data.params["p249"] == "249"
    assert run.data.params["uri"] == "s3://***@c"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [m.step for m in history] == [0, 1, 2]
    assert math.isnan(history[1].value)

    def kept(name: str) -> bytes:
        return Path(client.download_artifacts(run.info.run_id, name)).read_bytes()

    assert kept("config/config.json") == b'{"uri": "s3://***@bucket"}'
    assert kept("plots/curve.png") == plot.read_bytes()


@pytest.mark.parametrize("ended", [None, "FAILED", "INTERRUPTED", "FINISHED"])
def test_the_same_key_continues_the_same_run(tracker, client, ended) -> None:
    key = f"resumed-{ended}"
    first = tracker()
    first.start("run", {"lr": 0.1, "epochs": 1}, key=key)
    for step in range(3):
        first.log_metrics({"loss": 3.0 - step}, step)
    if ended is not None:
        first.finish(ended)

    second = tracker()
    second.start("run", {"lr": 0.1, "epochs": 2, "seed": 7}, key=key)
    (run,) = runs_of(client, key)
    assert run.info.status == "RUNNING"
    for step in range(1, 5):
        second.log_metrics({"loss": 3.0 - step}, step)
    second.finish()

    (run,) = runs_of(client, key)
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(s, 3.0 - s) for s in range(5)]
    assert run.data.params == {"lr": "0.1", "epochs": "1", "seed": "7"}
    assert run.data.tags["changed.epochs"] == "2"
    assert "changed.lr" not in run.data.tags


def test_trials_nest_in_their_sweep_and_are_found_again(tracker, client) -> None:
    sweep = tracker()
    sweep.start("sweep", {}, key="sweep")
    for _ in range(2):
        for trial in ("t1", "t2"):
            one = tracker()
            one.start(trial, {"r": 0.1}, key=f"sweep/{trial}", parent="sweep")
            one.log_metrics({"top1": 0.5}, 1)
            one.finish("FAILED")
    sweep.finish()
    (outer,) = runs_of(client, "sweep")
    for trial in ("t1", "t2"):
        (inner,) = runs_of(client, f"sweep/{trial}")
        assert inner.data.tags["mlflow.parentRunId"] == outer.info.run_id


def test_an_unknown_parent_is_named(tracker) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        tracker().start("trial", {}, key="lost", parent="nobody")


def test_a_deleted_experiment_comes_back(tracker, client) -> None:
    tracker("short-lived").start("a", {}, key="before")
    client.delete_experiment(client.get_experiment_by_name("short-lived").experiment_id)
    tracker("short-lived").start("b", {}, key="after")
    assert [run.info.run_name for run in runs_of(client, "after")] == ["b"]


def test_the_machine_is_sampled_and_continued_on_resume(tracker, client) -> None:
    name = "system/cpu_utilization_percentage"
    for wanted in (1, 3):
        one = tracker(system_interval=0.05)
        one.start("run", {}, key="sampled")
        (run,) = runs_of(client, "sampled")
        deadline = time.monotonic() + 120
        while len(client.get_metric_history(run.info.run_id, name)) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        one.finish()
    steps = [m.step for m in client.get_metric_history(run.info.run_id, name)]
    assert steps == list(range(len(steps)))


def test_figures_wait_while_the_server_does_not_answer(
    tracker, client, monkeypatch, caplog
) -> None:
    from mlflow.exceptions import MlflowException

    one = tracker()
    one.start("run", {}, key="outage")
    works = one._client.log_batch

    def fails(*args, **kwargs):
        raise MlflowException("connection refused by http://u:hunter2@h")

    monkeypatch.setattr(one._client, "log_batch", fails)
    with caplog.at_level(logging.WARNING):
        one.log_metrics({"loss": 1.0}, 0)
        one.log_metrics({"loss": 0.5}, 1)
    assert len(caplog.records) == 1
    assert "hunter2" not in caplog.text
    monkeypatch.setattr(one._client, "log_batch", works)
    one.finish()
    (run,) = runs_of(client, "outage")
    assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [1.0, 0.5]


def test_a_bad_metric_name_is_an_error_at_once(tracker) -> None:
    from mlflow.exceptions import MlflowException

    one = tracker()
    one.start("run", {}, key="bad-name")
    with pytest.raises(MlflowException):
        one.log_metrics({"loss?": 1.0}, 0)


def test_a_server_that_is_not_there_is_told_in_seconds() -> None:
    begun = time.monotonic()
    one = MlflowTracker("http://user:hunter2@127.0.0.1:9", "itpn_ray", system_interval=0)
    with pytest.raises(ConfigError, match=r"tracking\.uri") as caught:
        one.start("run", {}, key="k")
    assert time.monotonic() - begun < 60  # MLflow itself would try for four minutes
    assert "hunter2" not in str(caught.value)


def test_where_says_how_to_look(tracker, out) -> None:
    assert tracker().where == f"mlflow ui --backend-store-uri sqlite:///{out}/mlflow.db"
    server = MlflowTracker("http://u:p@host:5000", "x")
    assert server.where == "http://***@host:5000"


def test_the_first_start_is_quiet_and_sends_nothing(first_start) -> None:
    folder, done = first_start
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "mlflow.db").exists()


def test_create_tracker_puts_artifacts_beside_the_database(out, tmp_path) -> None:
    elsewhere = TrackingConfig(uri=f"sqlite:///{tmp_path}/db/mlflow.db")
    assert isinstance(create_tracker(elsewhere, out), MlflowTracker)
    assert (tmp_path / "db" / "mlartifacts").is_dir()


@pytest.mark.parametrize(
    ("uri", "cause", "hint"),
    [
        ("sqlite:///{folder}/bad.db", "file is not a database", "Restore it, move it away"),
        ("sqlite:///{folder}/cut.db", "malformed", "Restore it, move it away"),
        ("postgresql://u:p@127.0.0.1:9/db", "No module named", "Install the database's driver"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(out, tmp_path, uri, cause, hint) -> None:
    (tmp_path / "bad.db").write_text("no database")
    whole = (out / "mlflow.db").read_bytes()
    (tmp_path / "cut.db").write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    tracker = create_tracker(TrackingConfig(uri=uri.format(folder=tmp_path)), tmp_path)
    with pytest.raises(ConfigError, match=cause) as caught:
        tracker.start("run", {}, key="key")
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "u:p@" not in str(caught.value)


def test_a_locked_database_is_told(out, monkeypatch) -> None:
    import sqlite3

    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    uri = tracking_uri(TrackingConfig(), out)
    with contextlib.closing(sqlite3.connect(out / "mlflow.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        tracker = create_tracker(TrackingConfig(uri=f"{uri}?timeout=0.1"), out)
        with pytest.raises(ConfigError, match="database is locked"):
            tracker.start("run", {}, key="locked")


def test_a_folder_for_artifacts_that_cannot_be_made_is_told(tmp_path) -> None:
    (tmp_path / "file").write_text("no folder")
    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(ConfigError, match=r"its folder cannot be written"):
        create_tracker(config, tmp_path)


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of its types and of pandas
def test_a_run_has_its_data_source_and_model(out, tracker, client, tmp_path):
    weights = tmp_path / "model.safetensors"
    save_model(classifier(), weights, {"classes": json.dumps(NAMES), "task": "classification"})
    run = tracker("ours")
    run.start("fine", {}, key="fine")
    run.log_source("itpn-ray finetune nano --ray.address ray://me:secret@head:1", DATA)
    for _ in range(2):
        run.log_model(weights, "clothes")
    run.finish()
    from mlflow import pyfunc, set_registry_uri, set_tracking_uri  # imported by now

    uri = tracking_uri(TrackingConfig(), out)
    (run,) = runs_of(client, "fine")
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("clothes", "ab" * 18)
    assert json.loads(used.dataset.profile)["sha256"] == "ab" * 32
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "training"}
    assert run.data.tags["mlflow.source.name"].startswith("itpn-ray finetune nano")
    assert "secret" not in run.data.tags["mlflow.source.name"]
    versions = client.search_model_versions("name = 'clothes'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    set_tracking_uri(uri)
    set_registry_uri(uri)
    try:
        model = pyfunc.load_model("models:/clothes/2")
        photo = jpeg(make_image(0, 90, 70))
        answers = model.predict(pandas.DataFrame({"image": [photo, b"no image"]}))
    finally:
        set_tracking_uri(None)
        set_registry_uri(None)
    assert model.metadata.signature.inputs.input_names() == ["image"]
    network = load_model(weights)
    with torch.no_grad():
        image = network.preprocess(Image.open(io.BytesIO(photo)))
        scores = network(image[None]).softmax(1)[0]
    (entry,) = answers[0]["found"]
    assert entry["top"][0]["class"] == NAMES[int(scores.argmax())]
    assert entry["top"][0]["score"] == pytest.approx(float(scores.max()), rel=1e-2)
    assert "error" in answers[1]
