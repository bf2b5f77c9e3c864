"""A reader finds a module by the tree: no folder is too wide to look through."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WIDEST = 25


@pytest.mark.parametrize("package", ["itpn_ray", "jobs", "benchmarks", "tests"])
def test_no_folder_holds_more_modules_than_can_be_looked_through(package: str) -> None:
    counts = Counter(path.parent for path in (ROOT / package).rglob("*.py"))
    assert {str(folder): n for folder, n in counts.items() if n > WIDEST} == {}
