"""A run whose images and checkpoints lie in an S3 that refuses three requests in ten."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from itpn_ray.commands.chaos.faults import FlakyServer
from itpn_ray.data.config import LoaderConfig
from itpn_ray.experiment import CheckpointConfig
from itpn_ray.models import load_model
from itpn_ray.runs.folder import EXPORT
from itpn_ray.runs.mirror import fetched
from itpn_ray.runs.reader import read_run
from itpn_ray.storage import open_store
from itpn_ray.terminal.console import Console
from itpn_ray.training.launch.driver import run
from tests.training.runs import (
    Stop,
    final_digest,
    losses,
    stop_at,
    tiny,
    train_alone,
    train_and_stop,
)


def test_a_stopped_run_on_s3_ends_as_one_on_disk(
    prepared: str,
    s3_uri: str,
    flaky_s3: Callable[..., FlakyServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader = LoaderConfig(
        transport="threads", threads=1, prefetch=32, cache_dir=str(tmp_path / "cache")
    )
    local = tiny(prepared, tmp_path / "local", loader=loader)
    expected = losses(train_alone(local))

    store = open_store(f"{s3_uri}/data")
    for path in Path(prepared).rglob("*"):
        if path.is_file():
            store.put_file(path, path.relative_to(prepared).as_posix())
    server = flaky_s3(refuse=0.3)
    remote = tiny(
        f"{s3_uri}/data",
        tmp_path / "remote",
        loader=loader,
        checkpoint=CheckpointConfig(uri=f"{s3_uri}/checkpoints", every_steps=3),
    )
    train_and_stop(remote, monkeypatch, 5)
    assert losses(train_alone(remote)) == expected
    assert final_digest(remote) == final_digest(local)
    assert server.counts["refused"] > 5
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"canary" not in path.read_bytes(), path
    for key in open_store(s3_uri).list():
        assert b"canary" not in open_store(s3_uri).read_bytes(key), key


def test_a_run_kept_on_s3_goes_on_on_another_machine(
    prepared: str, s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Config, records, checkpoints and weights lie under OUT; nothing of the first machine is."""
    expected = tiny(prepared, tmp_path / "local")
    train_alone(expected)
    config = dataclasses.replace(expected, out=f"{s3_uri}/out")
    stream = io.StringIO()
    with monkeypatch.context() as machine:
        machine.setattr("tempfile.tempdir", str(tmp_path / "first"))
        stop_at(machine, 5)
        with pytest.raises(Stop):
            run(config, command="pretrain", console=Console(stream=stream))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "second"))
    run(config, command="pretrain", console=Console(stream=stream))
    assert final_digest(config) == final_digest(expected)
    keys = open_store(f"{s3_uri}/out/run").list()
    assert {"config.json", "metrics.jsonl", "report.html", EXPORT} <= set(keys)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "third"))
    assert load_model(f"{s3_uri}/out/run").config.kind == "autoencoder"
    record = read_run(fetched(f"{s3_uri}/out/run"))
    assert [r["step"] for r in record.metrics if r["split"] == "train"] == list(range(1, 9))
