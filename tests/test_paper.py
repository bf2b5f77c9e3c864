"""The page on the paper: all that it names is there, and all that the paper has is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from itpn_ray.reproduction.tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/reference/paper.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| System", "| In the paper"))
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_a_row_names_exists(row: list[str]) -> None:
    """Commands are given to the command line by `tests/test_commands.py`."""
    _, _, code, command, test, measured = row
    if code.startswith("not built"):
        assert (command, test, measured) == ("none", "none", "not measured")
        return
    for named, folder in ((code, "itpn_ray/"), (test, "tests/")):
        (path,) = re.findall(r"^`(.+)`$", named)
        assert path.startswith(folder)
        assert (ROOT / path).is_file()
    assert re.fullmatch(r"`itpn-ray .+`", command)
    assert measured


def test_every_table_and_figure_of_the_paper_has_a_row() -> None:
    names = {row[0] for row in ROWS}
    assert {f"Table {number}" for number in range(1, 10)} <= names
    assert {f"Figure {number}" for number in range(1, 8)} <= names


@pytest.mark.parametrize("name", list(TABLES))
def test_every_command_of_reproduce_stands_in_its_row(name: str) -> None:
    kind, number = re.fullmatch(r"(table|fig)(\d)", name).groups()  # type: ignore[union-attr]
    title = f"{'Table' if kind == 'table' else 'Figure'} {number}"
    (row,) = [row for row in ROWS if row[0] == title]
    assert row[3] == f"`itpn-ray reproduce {name}`"
