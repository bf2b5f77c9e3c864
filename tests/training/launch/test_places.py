"""What a run reads and writes on other machines of a cluster, and what they are sent."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from itpn_ray.errors import ConfigError
from itpn_ray.ray_runtime import machines
from itpn_ray.training.launch.network import interface_of
from itpn_ray.training.launch.places import check_seen, local_files, shared_places, unpack
from tests.training.runs import tiny


def sees(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Another machine, which sees these folders only."""
    monkeypatch.setattr(machines, "other_nodes", lambda: {"b": "10.0.0.2"})

    def ask(nodes: object, question: object) -> dict[str, bool]:
        path = Path(question.__closure__[0].cell_contents)  # type: ignore[attr-defined]
        return {"b": any(path.is_relative_to(folder) and path.exists() for folder in folders)}

    monkeypatch.setattr(machines, "ask", ask)


def test_folders_that_all_machines_see(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch, tmp_path, Path(prepared))
    config = tiny(prepared, tmp_path)
    with shared_places(config) as token:
        check_seen(config, token)
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_a_local_out_is_refused_with_the_hint(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch, Path(prepared))
    with pytest.raises(ConfigError, match=r"out = .* 10\.0\.0\.2 does not see.*s3://"):
        shared_places(tiny(prepared, tmp_path)).__enter__()


def test_data_of_one_machine_are_refused(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match="data = "):
        shared_places(tiny(prepared, tmp_path)).__enter__()


def test_a_machine_that_joins_later_and_sees_nothing_is_told(tmp_path: Path) -> None:
    config = tiny("", tmp_path)
    check_seen(config, "")
    with pytest.raises(ConfigError, match=r"out = .*, which has joined the run, does not see"):
        check_seen(config, str(tmp_path / "no such file"))


def test_uris_are_seen_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sees(monkeypatch)
    config = dataclasses.replace(tiny("s3://bucket/data", tmp_path), out="s3://bucket/out")
    with shared_places(config) as token:
        check_seen(config, token)


def test_initial_weights_are_found_by_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sees(monkeypatch)
    monkeypatch.setattr("ray.put", lambda content: "reference")
    monkeypatch.setattr(machines.Shipped, "here", lambda self: f"/copy/{self.name}")
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    config = tiny("", tmp_path)
    model = dataclasses.replace(config.model, init=str(tmp_path / "w.safetensors"))
    config = dataclasses.replace(config, model=model)
    assert unpack(config, local_files(config)).model.init == "/copy/w.safetensors"
    assert unpack(config, {}) == config


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1").startswith("lo")
    assert interface_of("192.0.2.1") == ""  # of no machine: kept for documentation
