"""Reports of runs with odd numbers, damaged records, or an error of the report's own."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from itpn_ray import cli, report
from itpn_ray.report.reproduction import _bars
from itpn_ray.terminal.console import Console
from tests.report import runs

MAKERS = [runs.pretraining, runs.finetuning, runs.detection, runs.evaluation, runs.sweep]
RECORDS = ("metrics.jsonl", "results.json")
STAMPS = ("step", "epoch", "time", "migration")


def with_value(record: Any, value: float) -> Any:
    """The same record with a value in the place of every fraction."""
    if isinstance(record, dict):
        return {k: v if k in STAMPS else with_value(v, value) for k, v in record.items()}
    if isinstance(record, list):
        return [with_value(item, value) for item in record]
    return value if isinstance(record, float) else record


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -0.0, 1e300, 5e-324])
@pytest.mark.parametrize("make", MAKERS)
def test_odd_numbers_are_reported(make, value: float, tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    for path in (folder / name for name in RECORDS if (folder / name).exists()):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        spoilt = [json.dumps(with_value(json.loads(line), value)) for line in lines]
        path.write_text("".join(f"{line}\n" for line in spoilt))
    assert "<h1>" in report.write_report(folder).read_text()


def test_a_report_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> Path:
        raise ValueError("math domain error")

    monkeypatch.setattr(report, "write_report", fail)
    stream, log = io.StringIO(), tmp_path / "train.log"
    console = Console(stream=stream, log=log)
    assert report.add_report(tmp_path / "run", console) is None
    said = stream.getvalue()
    assert "warning: there is no report (ValueError: math domain error)" in said
    assert f"`itpn-ray report {tmp_path}/run` makes it again" in said
    assert "Traceback" not in said
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize("make", [*MAKERS, runs.prepared, runs.demo])
def test_a_report_is_made_again(make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "run")
    assert cli.run(["report", str(folder)]) == 0
    assert f"the report: {folder}/report.html" in capsys.readouterr().out
    assert (folder / "report.html").exists()


def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        assert cli.run(["report", str(folder)]) == 2
        assert f"{folder}: holds no run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["{", "[1]", "nonsense"])
def test_a_damaged_record_is_named(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.finetuning(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    lines[2] = damage
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert cli.run(["report", str(tmp_path)]) == 2
    assert f"{tmp_path}/metrics.jsonl:3: is no JSON object" in capsys.readouterr().err


def test_a_column_without_a_finite_value_has_no_bars() -> None:
    cells = [
        {"row": "a", "column": "accuracy", "metric": "top1", "value": math.nan},
        {"row": "b", "column": "probe", "metric": "top1", "value": 0.5},
    ]
    (chart,) = _bars(cells)
    assert "probe" in chart
