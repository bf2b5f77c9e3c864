import itertools
import os
from pathlib import Path

import pytest

from itpn_ray.errors import ConfigError
from itpn_ray.storage import check_writable, filesystem, is_s3, join, open_store, s3


def test_local_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in ("data", str(tmp_path / "data"), f"file://{tmp_path}/data"):
        found, path = filesystem(uri)
        assert found.type_name == "local"
        assert path == str(tmp_path / "data")
        assert not is_s3(uri)
    monkeypatch.setenv("HOME", "/home/someone")
    assert filesystem("~/data")[1] == "/home/someone/data"


def test_an_unknown_scheme_is_refused():
    for ask in (filesystem, open_store, check_writable):
        with pytest.raises(ConfigError, match="hdfs"):
            ask("hdfs://host/data")


def test_join():
    assert join("/", "a") == "/a"
    assert join("out/run/", "a", "b") == "out/run/a/b"
    assert join("s3://bucket", "a") == "s3://bucket/a"


def test_a_writable_place_is_left_as_it_was(tmp_path, s3_uri):
    check_writable(str(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []
    check_writable(f"{s3_uri}/run")
    assert open_store(s3_uri).list() == []


def test_a_local_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(str(tmp_path / "file" / "run"))
    assert os.listdir(tmp_path) == ["file"]


def test_an_s3_place_that_cannot_be_written_is_told_after_few_pauses(s3_uri, flaky_s3, monkeypatch):
    """Of at most 1, 2 and 4 s, while what a run writes is tried for minutes."""
    with pytest.raises(ConfigError, match="NoSuchBucket"):
        check_writable("s3://there-is-no-such-bucket/run")
    pauses = itertools.count()
    monkeypatch.setattr(s3.random, "random", lambda: 0.0 * next(pauses))
    flaky_s3(refuse=1.0)
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(s3_uri)
    assert next(pauses) == 3
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="cannot be written") as refused:
        check_writable(s3_uri)
    assert "canary" not in str(refused.value)


def test_writability_is_of_the_place_not_of_its_parent(tmp_path):
    check_writable(f"file://{tmp_path}/a/b")
    assert Path(tmp_path, "a/b").is_dir()
