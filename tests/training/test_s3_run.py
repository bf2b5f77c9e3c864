"""A run whose images and checkpoints lie in an S3 that refuses three requests in ten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from itpn_ray.commands.chaos.faults import FlakyServer
from itpn_ray.data.config import LoaderConfig
from itpn_ray.experiment import CheckpointConfig
from itpn_ray.storage import open_store
from tests.training.runs import final_digest, losses, tiny, train_alone, train_and_stop


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
