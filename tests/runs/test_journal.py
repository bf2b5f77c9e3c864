"""The run's diary."""

import json
from pathlib import Path

import pytest

from itpn_ray.runs.journal import EVENTS, METRICS, RESULTS, FileJournal, read_lines


def test_records_land_in_their_files(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    journal.metrics("train", 3, 0.25, {"loss": 1.5})
    journal.event("checkpoint", step=3)
    journal.status(1, phase="reading")
    journal.file("plots/grid.png", b"png")
    journal.result(top1=0.5)
    journal.result(top5=0.9)
    (record,) = read_lines(tmp_path / METRICS)
    assert (record["split"], record["step"], record["loss"]) == ("train", 3, 1.5)
    assert read_lines(tmp_path / EVENTS)[0]["event"] == "checkpoint"
    assert json.loads((tmp_path / "status/rank-1.json").read_text())["phase"] == "reading"
    assert (tmp_path / "plots/grid.png").read_bytes() == b"png"
    assert json.loads((tmp_path / RESULTS).read_text()) == {"top1": 0.5, "top5": 0.9}


def test_rewind_drops_what_will_be_repeated(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    for step in (5, 10, 15):
        journal.metrics("train", step, 0.0, {"loss": 0.0})
    journal.rewind(10)
    assert [record["step"] for record in read_lines(tmp_path / METRICS)] == [5, 10]


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_lines(path) == [{"step": 1}]


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        FileJournal(tmp_path).write("poem", {})
