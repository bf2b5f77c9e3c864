"""`mlflow models serve` answers with the network that a run has registered."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.models import load_model, save_model
from itpn_ray.tasks.serving import ServedModel
from itpn_ray.tracking import create_tracker, tracking_uri
from itpn_ray.tracking.config import TrackingConfig
from tests.data.made import jpeg, make_image
from tests.models.nets import classifier
from tests.s3 import free_port

NAMES = [f"class {number}" for number in range(10)]
PATIENCE = 120
"""Seconds for the server to start: it imports MLflow and PyTorch."""


@contextmanager
def serving(model: str, uri: str, log: Path) -> Iterator[str]:
    """The address of MLflow's own server, in a process group of its own that is ended after it."""
    port = free_port()
    scripts = Path(sys.executable).parent
    words = ["models", "serve", "--model-uri", model, "--env-manager", "local"]
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",  # where it looks for its web server
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with log.open("wb") as out:
        server = subprocess.Popen(
            [str(scripts / "mlflow"), *words, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        begun = time.monotonic()
        while not answers(f"{address}/ping"):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() - begun < PATIENCE, log.read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def answers(address: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def asked(address: str, body: bytes) -> list[dict[str, Any]]:
    """The predictions for a request."""
    header = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/invocations", body, header)
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: list[dict[str, Any]] = json.load(answer)["predictions"]
    return found


@pytest.mark.slow  # 20 s, most of it the imports of MLflow and PyTorch in two processes
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_registered_network_is_served(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    save_model(classifier(), weights, {"classes": json.dumps(NAMES), "task": "classification"})
    run = create_tracker(TrackingConfig(), tmp_path)
    run.start("fine", {}, key="fine")
    run.log_model(weights, "clothes")
    run.finish()
    (example,) = tmp_path.rglob("serving_input_example.json")
    photo = jpeg(make_image(0, 90, 70))
    coded = [[base64.b64encode(data).decode()] for data in (photo, b"no image")]
    own = json.dumps({"dataframe_split": {"columns": ["image"], "data": coded}}).encode()
    uri = tracking_uri(TrackingConfig(), tmp_path)
    with serving("models:/clothes/1", uri, tmp_path / "log") as address:
        (first,) = asked(address, example.read_bytes())
        second, broken = asked(address, own)
    (value,) = json.loads(example.read_text())["dataframe_split"]["data"][0]
    assert [first] == ServedModel(str(weights)).predict({"image": [base64.b64decode(value)]})
    assert {found["class"] for found in first["found"][0]["top"]} < set(NAMES)
    (entry,) = second["found"]
    network = load_model(weights)
    (tmp_path / "photo.jpg").write_bytes(photo)
    scores = network(network.preprocess(tmp_path / "photo.jpg")[None]).softmax(1)[0]
    assert entry["top"][0]["class"] == NAMES[int(scores.argmax())]
    assert entry["top"][0]["score"] == pytest.approx(float(scores.max()), rel=1e-2)
    assert "not an image" in broken["error"]
