"""The suite for a GPU: every part at toy sizes on the CPU, with PyTorch's own packages alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as suite
from benchmarks.gpu.bars import bars
from benchmarks.gpu.part import MINUTES
from benchmarks.gpu.results import PartResult
from benchmarks.gpu.scale import TOY

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = ("ray", "mlflow", "tyro", "nvidia.nvimgcodec", "hotcoco", "optuna", "boto3")
"""Packages that a machine lent for an hour need not have."""
RUN = f"""
import sys
sys.modules.update(dict.fromkeys({WITHOUT}))
from pathlib import Path
from benchmarks.gpu.part import run_part
run_part(sys.argv[1], Path(sys.argv[2]), dry=True)
"""


@pytest.mark.benchmarks
@pytest.mark.parametrize("part", MINUTES)
def test_every_case_of_a_part_runs_without_the_packages_of_a_cluster(
    part: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", RUN, part, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = PartResult.read(tmp_path / f"{part}.json")
    assert result.lines
    assert not [line for line in result.lines if "failed" in line or "skipped" in line], done.stderr
    assert result.done("toy")
    assert not result.done("full")


def write(folder: Path, part: str, *lines: dict[str, object], scale: str = "toy") -> PartResult:
    columns = {"what": "what", "images_per_s": "images/s"}
    result = PartResult(path=folder / f"{part}.json", scale=scale, title=part, columns=columns)
    for line in lines:
        result.add(dict(line))
    result.seconds = 1.0
    result.write()
    return result


class Processes:
    """Stands for the processes of parts: what they were asked, and how they end."""

    def __init__(self, returncode: int) -> None:
        self.asked: list[str] = []
        self.returncode = returncode

    def __call__(self, command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        self.asked.append(command[3])
        return subprocess.CompletedProcess(command, self.returncode)


def test_only_parts_that_have_not_ended_well_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"what": "loader alone", "images_per_s": 1234.5}
    write(tmp_path, "input", good)
    write(tmp_path, "trunk", good, {"what": "forward", "failed": "RuntimeError"})
    write(tmp_path, "acceleration", {"what": "forward", "skipped": "the part's time was over"})
    write(tmp_path, "detection", good, scale="full")
    processes = Processes(0)
    monkeypatch.setattr(suite.subprocess, "run", processes)
    assert suite.main(["--dry-run", "--out", str(tmp_path)]) == 0
    assert processes.asked == [name for name in MINUTES if name != "input"]
    page = (tmp_path / "results.md").read_text()
    assert "| loader alone | 1,234 |" in page
    assert "failed: RuntimeError" in page
    assert (tmp_path / "input.png").exists()


def test_a_part_that_ends_badly_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite.subprocess, "run", Processes(1))
    assert suite.main(["--dry-run", "--out", str(tmp_path), "--parts", "trunk"]) == 1
    assert "ended badly: trunk" in capsys.readouterr().err


def test_bars_are_met_missed_or_not_measured(tmp_path: Path) -> None:
    compiled = {"network": TOY.main, "mode": "compiled"}
    trunk = write(
        tmp_path,
        "trunk",
        {"what": "forward", **compiled, "mfu": 0.5, "ratio": 0.9},
        {"what": "training step", **compiled, "mfu": 0.3},
    )
    loop = write(tmp_path, "input", {"what": "training loop", "loop_ratio": 1.02})
    verdicts = {bar.text: bar.met for bar in bars({"trunk": trunk, "input": loop})}
    assert list(verdicts.values())[:4] == [True, False, False, None]
    assert verdicts["the training loop's time over the step's alone"] is True
    assert set(list(verdicts.values())[4:-1]) == {None}


def test_a_result_is_whole_or_absent_and_read_back(tmp_path: Path) -> None:
    result = write(tmp_path, "trunk", {"what": "forward", "images_per_s": 2.0})
    assert PartResult.read(result.path) == result
    assert json.loads(result.path.read_text())["lines"][0]["images_per_s"] == 2.0
    assert PartResult.read(tmp_path / "none.json").lines == []
