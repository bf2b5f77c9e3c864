from pathlib import Path

import pytest

from itpn_ray.report.restarts import timeline
from itpn_ray.runs.reader import read_run
from tests.report import runs


def test_a_repeated_step_counts_once_and_a_cut_line_not_at_all(tmp_path: Path) -> None:
    stamp = {"split": "train", "epoch": 0.0}
    records = [{**stamp, "step": s, "loss": v} for s, v in [(1, 3.0), (2, 2.0), (1, 2.5)]]
    runs.write_lines(tmp_path / "metrics.jsonl", records)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "step": 3, "lo')
    record = read_run(tmp_path)
    assert record.series("train", "loss") == [(1.0, 2.5), (2.0, 2.0)]
    assert record.names("train") == ["loss"]


def test_the_status_is_the_last_one_told(tmp_path: Path) -> None:
    def status(*events: dict) -> str:
        lines = [{"time": float(i), **event} for i, event in enumerate(events)]
        runs.write_lines(tmp_path / "events.jsonl", lines)
        return read_run(tmp_path).status

    begin, save = {"event": "start"}, {"event": "checkpoint", "step": 1}
    failed = {"event": "end", "status": "FAILED"}
    assert status() == ""
    assert status(begin, save) == "unfinished"
    assert status(begin, save, failed) == "failed"
    assert status(begin, failed, {"event": "restart"}, save) == "unfinished"


def test_time_lost_is_from_the_checkpoint_to_going_on() -> None:
    events = [
        {"time": 100.0, "event": "start"},
        {"time": 150.0, "event": "checkpoint", "step": 10},
        {"time": 180.0, "event": "resume", "step": 10, "workers": 1, "saved": 149.0},
        {"time": 300.0, "event": "end", "status": "FINISHED"},
    ]
    found = timeline(events)
    assert found.seconds == 200.0
    assert found.lost == pytest.approx(31.0)
    assert (found.restarts[0].step, found.restarts[0].workers) == (10, 1)


def test_time_in_which_no_driver_ran_is_neither_spent_nor_lost() -> None:
    events = [
        {"time": 100.0, "event": "start"},
        {"time": 150.0, "event": "checkpoint", "step": 10},
        {"time": 160.0, "event": "end", "status": "FAILED"},
        {"time": 1160.0, "event": "restart"},
        {"time": 1170.0, "event": "resume", "step": 10, "saved": 150.0},
        {"time": 1200.0, "event": "end", "status": "FINISHED"},
    ]
    found = timeline(events)
    assert found.seconds == pytest.approx(100.0)
    assert found.lost == pytest.approx(20.0)


def test_a_run_without_an_end_lasts_to_its_last_sign() -> None:
    assert timeline([{"time": 100.0, "event": "start"}], last_sign=130.0).seconds == 30.0
    assert timeline([]).seconds == 0.0
