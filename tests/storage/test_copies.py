"""Copies of remote files."""

from __future__ import annotations

from pathlib import Path

import pytest

from itpn_ray.storage import local_copy, open_store


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))


def test_a_local_file_is_its_own_copy(tmp_path: Path) -> None:
    assert local_copy(str(tmp_path / "a.bin")) == tmp_path / "a.bin"


def test_a_remote_file_is_fetched_once_until_it_changes(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"{s3_uri}/weights")
    store.write_bytes("a.safetensors", b"first")
    copy = local_copy(f"{s3_uri}/weights/a.safetensors")
    assert (copy.name, copy.read_bytes()) == ("a.safetensors", b"first")
    with monkeypatch.context() as patch:
        patch.setattr("itpn_ray.storage.s3.S3Store.get_file", None)
        assert local_copy(f"{s3_uri}/weights/a.safetensors") == copy
    store.write_bytes("a.safetensors", b"second time")
    assert local_copy(f"{s3_uri}/weights/a.safetensors").read_bytes() == b"second time"


def test_a_missing_file_is_told(s3_uri: str) -> None:
    with pytest.raises(FileNotFoundError):
        local_copy(f"{s3_uri}/none.safetensors")
