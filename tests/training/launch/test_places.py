"""What other machines of a cluster must see, and what is sent to them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itpn_ray.errors import ConfigError
from itpn_ray.training.launch import places
from itpn_ray.training.launch.network import interface_of
from itpn_ray.training.launch.places import Shipped, check_shared, unpack
from tests.training.runs import tiny

NODES = {"b": "10.0.0.2", "c": "10.0.0.3"}


def sees(monkeypatch: pytest.MonkeyPatch, **nodes: bool) -> None:
    """Two other machines, each of which sees this one's disk or not."""
    monkeypatch.setattr(places, "_other_nodes", lambda: NODES)
    monkeypatch.setattr(
        places, "_ask", lambda asked, question: {n: nodes[n] and question() for n in asked}
    )


def test_a_folder_that_all_machines_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sees(monkeypatch, b=True, c=True)
    check_shared(tiny("", tmp_path))
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_a_folder_of_one_machine_is_refused_with_the_machine_that_misses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch, b=True, c=False)
    with pytest.raises(ConfigError, match=r"out = .* 10\.0\.0\.3 does not see.*s3://"):
        check_shared(tiny("", tmp_path))
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_data_of_one_machine_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sees(monkeypatch, b=True, c=True)
    with pytest.raises(ConfigError, match="data = "):
        check_shared(tiny(str(tmp_path / "data"), tmp_path))


def test_uris_are_seen_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sees(monkeypatch, b=False, c=False)
    config = dataclasses.replace(tiny("s3://bucket/data", tmp_path), out="s3://bucket/out")
    check_shared(config)


def test_a_shipped_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    content = np.arange(9, dtype=np.uint8)

    def get(reference: Any) -> Any:
        fetched.append(reference)
        return content

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("ray.get", get)
    digest = hashlib.sha256(content.tobytes()).hexdigest()
    file = Shipped(name="w.safetensors", sha256=digest, content="reference")
    config = tiny("", tmp_path)
    model = dataclasses.replace(config.model, init="/elsewhere/w.safetensors")
    found = unpack(dataclasses.replace(config, model=model), {"init": file})
    assert Path(found.model.init).read_bytes() == content.tobytes()
    assert unpack(config, {"init": file}).model.init == found.model.init
    assert fetched == ["reference"]


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1").startswith("lo")
    assert interface_of("192.0.2.1") == ""  # of no machine: kept for documentation
