import json
import os
import re
from pathlib import Path

import pytest

from itpn_ray.formatting import show_duration, show_metric
from itpn_ray.terminal.run_progress import RunFolder, RunProgress, Tail, event_line, metrics_line


def status(rank: int = 0, **fields) -> dict:
    return {"rank": rank, "phase": "forward", "step": 10, "steps": 100, **fields}


def append(path: Path, *records: dict) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def test_one_line_says_it_all() -> None:
    progress = RunProgress()
    assert progress.line(0.0) == "waiting for the workers"
    progress.status(status(step=9, phase="starting"), last_seen=70.0)
    progress.status(status(epoch=0.5, loss=0.75, images_per_s=1234.5), last_seen=100.0)
    assert progress.eta is None
    progress.status(status(1, phase="reading"), last_seen=100.0)
    progress.status(status(step=20, epoch=1.0, loss=0.5, images_per_s=1234.5), last_seen=105.0)
    assert progress.fraction == 0.2
    assert progress.eta == pytest.approx(40.0)
    assert progress.line(106.0) == (
        "step 20/100  epoch 1.00  loss 0.5000  1,234 images/s  ETA 40 s  [forward, reading]"
    )


def test_a_silent_worker_is_told() -> None:
    progress = RunProgress()
    progress.status(status(), last_seen=100.0)
    progress.status(status(1), last_seen=140.0)
    assert progress.worker_lines(145.0) == ["worker 0  silent for 45 s", "worker 1  forward"]


def test_many_workers_are_counted() -> None:
    progress = RunProgress()
    for rank in range(12):
        progress.status(status(rank, phase="reading" if rank < 3 else "forward"), last_seen=0.0)
    assert progress.worker_lines(1.0) == ["9x forward", "3x reading"]


def test_a_restart_does_not_spoil_the_pace() -> None:
    progress = RunProgress()
    for seen, step in [(0.0, 50), (10.0, 60), (60.0, 39), (90.0, 40), (100.0, 50)]:
        progress.status(status(step=step), seen)
    assert progress.eta == pytest.approx(50.0)


def test_the_first_steps_are_no_measure_of_the_rest() -> None:
    progress = RunProgress()
    told = []
    for seen, step in [(0.0, 0), (12.0, 1), (13.0, 11), (14.0, 21)]:
        progress.status(status(step=step), seen)
        told.append(progress.eta)
    assert told == [None, None, pytest.approx(8.9), pytest.approx(7.9)]


def test_tail_gives_whole_new_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append(path, {"n": 0})
    tail = Tail(path)
    assert tail.read() == []
    append(path, {"n": 1}, {"n": 2})
    with path.open("a") as file:
        file.write('{"n": ')
    assert tail.read() == [{"n": 1}, {"n": 2}]
    assert tail.read() == []
    with path.open("a") as file:
        file.write("3}\n")
    assert tail.read() == [{"n": 3}]


def test_tail_does_not_repeat_a_file_that_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    append(path, {"n": 0}, {"n": 1})
    assert tail.read() == [{"n": 0}, {"n": 1}]
    shorter = tmp_path / "new"
    append(shorter, {"n": 0})
    shorter.replace(path)
    assert tail.read() == []
    append(path, {"n": 1})
    assert tail.read() == [{"n": 1}]


def test_the_folder_tells_events_and_evaluations(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    old = tmp_path / "status" / "rank-7.json"
    old.write_text(json.dumps(status(7)))
    os.utime(old, (1.0, 1.0))
    progress = RunProgress()
    folder = RunFolder(tmp_path, progress)
    (tmp_path / "status" / "rank-0.json").write_text(json.dumps(status()))
    append(tmp_path / "events.jsonl", {"time": 1.0, "event": "checkpoint", "step": 10})
    stamp = {"step": 10, "epoch": 0.5, "time": 2.0}
    append(tmp_path / "metrics.jsonl", {**stamp, "split": "train", "loss": 1.0})
    append(tmp_path / "metrics.jsonl", {**stamp, "split": "val", "top1": 0.8125, "loss": 0.5})
    assert folder.poll() == ["checkpoint: step 10", "val at step 10: top1 81.2 %, loss 0.5000"]
    assert folder.poll() == []
    assert list(progress.workers) == [0]


def test_lines_of_records() -> None:
    assert event_line({"event": "end", "time": 1.0}) == "end"
    assert event_line({"event": "early_stop", "step": 0, "message": ""}) == "early stop: step 0"
    resumed = {"event": "resume", "step": 95, "workers": 1, "passed_over": []}
    assert event_line(resumed) == "resume: step 95, workers 1"
    resumed |= {"passed_over": ["step-100: is cut", "step-98: is cut"]}
    told = "resume: step 95, workers 1, passed over as damaged step-100: is cut, step-98: is cut"
    assert event_line(resumed) == told
    resumed = {"event": "resume", "time": 1.0, "step": 1200, "workers": None, "seconds": 0.1 + 0.2}
    assert event_line(resumed) == "resume: step 1,200, seconds 0.3000"
    assert re.fullmatch(
        r"resume: saved \d\d:\d\d:\d\d", event_line({"event": "resume", "saved": 1790000150.123})
    )
    record = {"split": "probe", "step": 3, "epoch": 1.0, "time": 1.0, "knn_top1": 0.5}
    assert metrics_line(record) == "probe at step 3: knn_top1 50.0 %"
    record = {"split": "val", "step": 3, "box_AP": 0.25, "box_AP_small": 0.1, "mask_AR100": 0.5}
    assert metrics_line(record) == "val at step 3: box_AP 25.0 %"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("top1", 0.8125, "81.2 %"),
        ("val/top5", 1.0, "100.0 %"),
        ("mean_recall", 0.5, "50.0 %"),
        ("loss", 0.41234, "0.4123"),
        ("loss", float("nan"), "nan"),
        ("lr", 1.5e-4, "0.00015"),
        ("images_per_s", 1234.5, "1,234"),
        ("images_per_s", 0.4567, "0.457"),
        ("parameters", 24_220_000, "24,220,000"),
        ("r", 0.0, "0"),
        ("grad_norm", 12.3456, "12.35"),
    ],
)
def test_show_figure(name: str, value: float, text: str) -> None:
    assert show_metric(name, value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.24, "4.2 s"), (42.0, "42 s"), (130.0, "2 min 10 s"), (7500.0, "2 h 5 min")],
)
def test_show_duration(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text
