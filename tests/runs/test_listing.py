"""Runs in one place: what is listed, which is the best, what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from itpn_ray import cli
from itpn_ray.errors import DataError
from itpn_ray.runs.listing import best_run, differences, judged, overview, read_runs, side_by_side
from itpn_ray.storage import open_store


def make_run(out: Path, name: str, top1: float, lr: float, at: float = 100.0) -> None:
    """The records of a fine-tuning that has done half of its epochs."""
    folder = out / name
    folder.mkdir(parents=True)
    config = {"run": name, "task": {"kind": "classification"}, "optim": {"epochs": 4.0, "lr": lr}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {"split": "train", "step": 10, "epoch": 2.0, "time": at, "loss": 1.5},
        {"split": "val", "step": 10, "epoch": 2.0, "time": at, "top1": top1, "loss": 1.25},
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    events = [{"event": "start", "time": at}, {"event": "end", "time": at, "status": "FINISHED"}]
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    make_run(tmp_path, "first", top1=0.75, lr=1e-3)
    make_run(tmp_path, "second", top1=0.5, lr=2e-3, at=200.0)
    (tmp_path / "no-run").mkdir()
    return tmp_path


def test_the_newest_comes_first_with_its_state(out: Path) -> None:
    records = read_runs(str(out))
    assert [record.name for record in records] == ["second", "first"]
    row = overview(records[1])
    assert {name: row[name] for name in ("kind", "state", "done", "metric")} == {
        "kind": "Fine-tuning",
        "state": "finished",
        "done": "50%",
        "metric": "top-1 75.0 %",
    }


def test_the_best_by_the_headline_or_a_named_metric(out: Path) -> None:
    records = read_runs(str(out))
    record, metric, value = best_run(records)
    assert (record.name, metric, value) == ("first", "top1", 0.75)
    with pytest.raises(DataError, match="was found by no run"):
        best_run(records, "box_AP")


def test_a_run_without_a_headline_is_judged_by_its_loss(tmp_path: Path) -> None:
    make_run(tmp_path, "pre", top1=0.5, lr=1e-3)
    lines = (tmp_path / "pre/metrics.jsonl").read_text().replace('"top1"', '"mim"')
    (tmp_path / "pre/metrics.jsonl").write_text(lines)
    assert judged(read_runs(str(tmp_path))[0]) == ("loss", 1.25)


def test_two_runs_side_by_side(out: Path) -> None:
    second, first = read_runs(str(out))
    assert differences(first, second) == [{"setting": "optim.lr", "first": 0.001, "second": 0.002}]
    assert side_by_side(first, second) == [
        {"metric": "top-1", "first": "75.0 %", "second": "50.0 %"},
        {"metric": "loss", "first": "1.25", "second": "1.25"},
    ]


def test_runs_under_a_uri(out: Path, s3_uri: str) -> None:
    store = open_store(f"{s3_uri}/out")
    for path in out.rglob("*.json*"):
        store.put_file(path, path.relative_to(out).as_posix())
    store.write_bytes("first/exported/model.safetensors", b"large")
    assert [record.name for record in read_runs(f"{s3_uri}/out")] == ["second", "first"]


def test_on_the_command_line(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["runs", str(out), "--best"]) == 0
    assert capsys.readouterr().out == "first: top-1 75.0 %\n"
    assert cli.run(["runs", str(out), "--compare", "first", "second"]) == 0
    assert "optim.lr" in capsys.readouterr().out
    assert cli.run(["runs", str(out), "--compare", "first", "third"]) == 2
    assert "is no run here" in capsys.readouterr().err
    assert cli.run(["runs", str(tmp_path / "absent")]) == 2
    assert "holds no runs" in capsys.readouterr().err
