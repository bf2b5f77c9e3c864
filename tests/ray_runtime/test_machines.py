"""What other machines of a cluster must see, and what is sent to them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itpn_ray.errors import ConfigError
from itpn_ray.ray_runtime import machines
from itpn_ray.ray_runtime.machines import Shipped, require_seen, shared_folder, ship

NODES = {"b": "10.0.0.2", "c": "10.0.0.3"}


def sees(monkeypatch: pytest.MonkeyPatch, **nodes: bool) -> None:
    """Two other machines, each of which sees this one's disk or not."""
    monkeypatch.setattr(machines, "other_nodes", lambda: NODES)
    monkeypatch.setattr(
        machines, "ask", lambda asked, question: {n: nodes[n] and question() for n in asked}
    )


def test_a_folder_that_all_machines_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sees(monkeypatch, b=True, c=True)
    with shared_folder("out", "runs", str(tmp_path / "runs"), "Give another") as token:
        assert Path(token).is_file()
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_of_one_machine_is_refused_with_the_machine_that_misses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch, b=True, c=False)
    told = r"out = 'runs': is a folder of this machine, which 10\.0\.0\.3 does not see\. Give X, or"
    with pytest.raises(ConfigError, match=told):
        shared_folder("out", "runs", str(tmp_path), "Give X").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_machine_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch, b=True, c=True)
    (tmp_path / "there").touch()
    require_seen("data", "data", str(tmp_path / "there"), "Copy it")
    with pytest.raises(ConfigError, match=r"data = 'data': .* 10\.0\.0\.2"):
        require_seen("data", "data", str(tmp_path / "not there"), "Copy it")


def test_uris_are_seen_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    sees(monkeypatch, b=False, c=False)
    with shared_folder("out", "s3://bucket/out", "s3://bucket/out", "") as token:
        assert token == ""
    assert ship("s3://bucket/weights.safetensors") is None


def test_one_machine_has_nobody_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "other_nodes", dict)
    with shared_folder("out", "runs", str(tmp_path), "") as token:
        assert token == ""
    require_seen("data", "data", "/not/there", "")
    assert ship(str(tmp_path / "weights")) is None


def test_a_shipped_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sees(monkeypatch, b=False, c=False)
    stored: dict[str, Any] = {}

    def put(content: Any) -> str:
        stored["reference"] = content
        return "reference"

    monkeypatch.setattr("ray.put", put)
    monkeypatch.setattr("ray.get", stored.pop)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    content = np.arange(9, dtype=np.uint8).tobytes()
    (tmp_path / "w.safetensors").write_bytes(content)
    file = ship(str(tmp_path / "w.safetensors"))
    assert isinstance(file, Shipped)
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert Path(file.here()).read_bytes() == content
    assert file.here() == file.here()
    assert stored == {}


def test_a_copy_of_other_content_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("ray.get", lambda content: content)
    content = np.arange(9, dtype=np.uint8)
    digest = hashlib.sha256(content.tobytes()).hexdigest()
    file = Shipped(name="w.safetensors", sha256=digest, content=content)
    Path(file.here()).write_bytes(b"something else")
    assert Path(file.here()).read_bytes() == content.tobytes()
