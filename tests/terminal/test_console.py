import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console as Terminal

from itpn_ray.terminal.console import Console, render
from itpn_ray.terminal.run_progress import RunProgress


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def write_status(run: Path, step: int, **fields) -> None:
    (run / "status").mkdir(exist_ok=True)
    record = {"rank": 0, "phase": "forward", "step": step, "steps": 40, "loss": 1.0, **fields}
    temporary = run / "status" / "new"
    temporary.write_text(json.dumps(record))
    temporary.replace(run / "status" / "rank-0.json")


def write_val(run: Path, step: int) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"split": "val", "step": step, "top1": 0.5}) + "\n")


def wait_for(text: str, found, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while text not in found():
        assert time.monotonic() < deadline, f"{text!r} not in {found()!r}"
        time.sleep(0.02)


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    stream, log = io.StringIO(), tmp_path / "train.log"
    console = Console(stream=stream, log=log, plain_seconds=0.0)
    with console.follow(tmp_path):
        write_status(tmp_path, 10)
        wait_for("step 10/40", stream.getvalue)
        write_val(tmp_path, 10)
        wait_for("val at step 10", stream.getvalue)
        write_status(tmp_path, 20)
    assert "\x1b" not in stream.getvalue()
    lines = stream.getvalue().splitlines()
    assert lines[1] == "val at step 10: top1 50.0 %"
    assert lines[-1].startswith("step 20/40  loss 1.0000")
    logged = log.read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in logged] == lines


def test_a_line_every_few_seconds_only(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Console(stream=stream, plain_seconds=60.0).follow(tmp_path):
        for step in range(1, 4):
            write_status(tmp_path, step)
            time.sleep(0.3)
    # nothing in the first minute but the last state at the end
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().startswith("step 3/40")


def test_a_terminal_gets_a_moving_display_and_the_log_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream, log = FakeTerminal(), tmp_path / "train.log"
    console = Console(stream=stream, log=log, plain_seconds=0.0)
    with console.follow(tmp_path, title="pretrain"):
        write_status(tmp_path, 10, images_per_s=321.0)
        wait_for("321", stream.getvalue)
        console.say("a [bold] message")
    shown = stream.getvalue()
    assert "\x1b[" in shown
    assert "pretrain" in shown
    assert "worker 0  forward" in shown
    assert "a [bold] message" in shown
    assert "\x1b" not in log.read_text()
    assert "step 10/40" in log.read_text()


def test_an_error_in_the_run_passes_through_and_ends_the_display(tmp_path: Path) -> None:
    console = Console(stream=io.StringIO())
    with pytest.raises(KeyError), console.follow(tmp_path):
        raise KeyError("broken")
    console.say("still here")


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        ("quiet", ["warning: careful"]),
        ("normal", ["hello", "warning: careful"]),
        ("verbose", ["hello", "by the way", "warning: careful"]),
    ],
)
def test_verbosity_rules_the_terminal_and_not_the_log(verbosity, shown, tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(verbosity=verbosity, stream=stream)
    console.log_to(tmp_path / "new" / "train.log")
    console.say("hello")
    console.detail("by the way")
    console.warn("careful")
    assert stream.getvalue().splitlines() == shown
    assert len((tmp_path / "new" / "train.log").read_text().splitlines()) == 3


def test_secrets_are_hidden_everywhere(tmp_path: Path) -> None:
    stream, log = io.StringIO(), tmp_path / "train.log"
    Console(stream=stream, log=log).warn("no such bucket s3://key:hunter2@bucket")
    assert "hunter2" not in stream.getvalue() + log.read_text()


def test_the_summary_names_what_exists_and_how_to_load_it(tmp_path: Path) -> None:
    run = tmp_path / "nano"
    run.mkdir()
    (run / "report.html").write_text("x")
    stream = io.StringIO()
    code = ["from itpn_ray.models import load_model", "model = load_model('w')", "model.eval()"]
    Console(verbosity="quiet", stream=stream).summary(
        run, code, metrics={"top1": "81.2 %"}, where={"tracking": "mlflow ui", "none": ""}
    )
    text = stream.getvalue()
    assert f"report    {run}/report.html" in text
    assert "top1      81.2 %" in text
    assert "tracking  mlflow ui" in text
    assert "weights" not in text
    assert "none" not in text
    assert "\n".join(f"    {line}" for line in code) in text


def test_a_table_has_aligned_columns() -> None:
    stream = io.StringIO()
    rows = [{"trial": "trial-00001", "top1": 0.5, "front": True}, {"trial": "b", "error": "died"}]
    Console(stream=stream).table(rows)
    assert stream.getvalue().splitlines() == [
        "trial        top1    front  error",
        "trial-00001  50.0 %  yes",
        "b                           died",
    ]


def test_the_display_before_and_during_a_run() -> None:
    def text(progress: RunProgress) -> str:
        stream = io.StringIO()
        Terminal(file=stream, width=100).print(render(progress, "nano", 75.0))
        return stream.getvalue()

    progress = RunProgress()
    assert "waiting for the workers" in text(progress)
    progress.status({"rank": 0, "step": 10, "steps": 40, "epoch": 1.5, "phase": "saving"}, 0.0)
    assert "25 %" in text(progress)
    assert "10/40" in text(progress)
    assert "epoch 1.50" in text(progress)
    assert "elapsed 1 min 15 s" in text(progress)


def test_a_reader_who_has_gone_does_not_end_the_run(tmp_path: Path) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    log = tmp_path / "train.log"
    console = Console(stream=Closed(), log=log)
    console.say("one")
    console.warn("two")
    assert len(log.read_text().splitlines()) == 2
