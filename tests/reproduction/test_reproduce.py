"""A table from the command line to its verdicts, on generated images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from itpn_ray import cli
from itpn_ray.reproduction.ablations import FIG7, ITPN
from itpn_ray.reproduction.grid import Cell, Step, Table, claims
from itpn_ray.reproduction.tables import TABLES
from itpn_ray.runs.journal import RESULTS
from itpn_ray.runs.lease import Lease

LOSS, TOP1 = FIG7.cells[0].column, "top-1"
STEPS = (ITPN, Step(verb="finetune", recipe="itpn_base"))
SMALL = Table(
    title="A small table",
    source="a test",
    held="all else",
    cells=(
        *FIG7.cells[:2],
        Cell(row="iTPN", column=TOP1, steps=STEPS, metric="top1", paper=0.8),
        FIG7.cells[-1],
    ),
    claims=claims(LOSS, ("iTPN", "no iPT")),
    curves=True,
)


def test_a_table_is_run_judged_and_taken_up_again(
    prepared: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(TABLES, "table8", SMALL)
    words = ["--data", prepared, "--seeds", "2", "--out", str(tmp_path)]
    assert cli.run(["reproduce", "table8", *words, "--dry-run"]) == 0
    assert "itpn-ray finetune nano" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert cli.run(["reproduce", "table8", *words]) == 0
    folder = tmp_path / "table8-nano"
    results = json.loads((folder / RESULTS).read_text())
    cells = [(row["row"], row["column"], len(row["values"])) for row in results["cells"]]
    assert cells == [("iTPN", LOSS, 2), ("no iPT", LOSS, 2), ("iTPN", TOP1, 2)]
    (judged,) = results["claims"]
    assert judged["text"].startswith(("+", "-"))
    assert results["missing"][0]["reason"] == "it needs data: --objects"
    assert [len(line["points"]) for line in results["curves"][0]["series"]] == [3, 3]
    page = (folder / "report.html").read_text()
    assert judged["text"] in page
    assert "no iPT" in (folder / "table.md").read_text()
    capsys.readouterr()
    assert cli.run(["reproduce", "table8", *words]) == 0
    assert capsys.readouterr().out.count("is complete; nothing to do") == 6
    # The figure's pre-trainings are the table's.
    monkeypatch.setitem(TABLES, "fig6", Table(**{**vars(TABLES["fig6"]), "cells": FIG7.cells[:2]}))
    assert cli.run(["reproduce", "fig6", *words]) == 0
    assert (tmp_path / "fig6-nano/plots/attention.png").stat().st_size > 10_000
    assert len(list((tmp_path / "runs").iterdir())) == 6


def test_a_table_without_a_cell_to_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["reproduce", "table8", "--out", str(tmp_path)]) == 2
    assert "has no cell that can be run here: it needs data: --data" in capsys.readouterr().err


def test_a_table_under_way_is_left_alone(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLES, "table8", SMALL)
    folder = tmp_path / "table8-nano"
    words = ["--data", prepared, "--out", str(tmp_path)]
    with Lease(str(folder), name=folder.name):
        before = sorted(path.name for path in folder.iterdir())
        assert cli.run(["reproduce", "table8", *words]) == 2
        assert sorted(path.name for path in folder.iterdir()) == before
