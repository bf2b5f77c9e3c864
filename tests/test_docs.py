"""The examples of the pages run, links of pages outside the site lead somewhere."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sqlite3
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from itpn_ray import cli
from itpn_ray.data.prepare import config as prepare_config
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources import detect
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.runs.journal import METRICS, read_lines
from itpn_ray.terminal.console import Console
from itpn_ray.training.launch import driver
from tests.data.made import jpeg, make_image
from tests.training.runs import classification

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ROOT / "docs/how-to"
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "clusters/README.md")]


def files_of(page: Path) -> dict[str, str]:
    """The files that a page shows, by their titles."""
    found = re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', page.read_text(), re.M | re.S)
    return dict(found)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The packages of the guides to tasks and metrics, as if installed with pip."""
    files = files_of(GUIDES / "own-task.md") | files_of(GUIDES / "metric.md")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    groups = tomllib.loads(files["pyproject.toml"])["project"]["entry-points"]
    groups["itpn_ray.tasks"]["balanced"] = "my_tasks.balanced:Balanced"
    info = tmp_path / "my_tasks-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-tasks\nVersion: 0.1\n")
    with (info / "entry_points.txt").open("w") as out:
        for group, entries in groups.items():
            print(
                f"[{group}]",
                *(f"{name} = {place}" for name, place in entries.items()),
                sep="\n",
                file=out,
            )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_tasks"]:
        del sys.modules[name]


def train(config: ExperimentConfig) -> dict[str, Any]:
    """Train as a worker would that reads the configuration; the last evaluation."""
    config = from_dict(to_dict(config))
    folder = driver.run(config, command="test", console=Console(stream=io.StringIO()))
    return read_lines(folder / METRICS)[-1]


def test_a_task_of_ones_own_is_trained_and_asked(installed: Path, prepared: str) -> None:
    command = ["pretrain", "rotation", "--data", prepared, "--out", str(installed / "out")]
    small = "--workers 0 --loader.transport threads --model.image-size 32 --optim.epochs 2 "
    small += "--optim.warmup-epochs 0 --optim.global-batch 16 --tracking.kind none"
    assert cli.run([*command, *small.split(), "--task.label-smoothing", "0.2"]) == 0
    run = installed / "out/rotation"
    last = read_lines(run / METRICS)[-1]
    assert last["split"] == "val"
    assert 0 <= last["turns_right"] <= 1
    images = installed / "images"
    images.mkdir()
    make_image(0, 40, 36).save(images / "0.png")
    answers = installed / "answers"
    assert cli.run(["predict", str(run), str(images), "--out", str(answers), "--workers", "0"]) == 0
    (answer,) = json.loads((answers / "results.json").read_text())
    assert {found["class"] for found in answer["top"]} == {"0", "90", "180", "270"}


def test_a_built_in_task_is_judged_by_another_metric(installed: Path, prepared: str) -> None:
    from my_tasks.balanced import Balanced  # type: ignore[import-not-found]

    config = classification(prepared, installed / "out")
    last = train(dataclasses.replace(config, task=Balanced(ema_decay=0.0)))
    assert Balanced.headline().name == "balanced_accuracy"
    assert last["balanced_accuracy"] == last["mean_recall"]


def test_a_source_of_ones_own_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "images.sqlite"
    with sqlite3.connect(database) as table:
        table.execute("CREATE TABLE images (name TEXT, image BLOB, label TEXT, split TEXT)")
        for row in range(8):
            fields = (f"{row}.jpg", jpeg(make_image(row, 40, 36)), "ab"[row % 2])
            split = "val" if row < 2 else "train"
            table.execute("INSERT INTO images VALUES (?, ?, ?, ?)", (*fields, split))
    namespace: dict[str, Any] = {}
    exec(files_of(GUIDES / "own-source.md")["sqlite_table.py"], namespace)
    monkeypatch.setattr(prepare_config, "FORMATS", (*prepare_config.FORMATS, "sqlite"))
    monkeypatch.setitem(detect.SOURCES, "sqlite", lambda c: namespace["SqliteTable"](c.source))
    out = tmp_path / "data"
    manifest = prepare(
        PrepareConfig(source=str(database), out=str(out), format="sqlite", num_workers=0)
    )
    assert manifest.classes == ("a", "b")
    assert {name: split.count for name, split in manifest.splits.items()} == {"train": 6, "val": 2}
    assert manifest.quarantined == 0


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Those of the site are checked when it is built."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_pages_that_the_code_names_exist() -> None:
    for folder in ("itpn_ray", "jobs", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for page in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text()):
                assert (ROOT / page).exists(), (path, page)


def test_decisions_are_numbered_in_order() -> None:
    page = (ROOT / "docs/explanation/decisions.md").read_text()
    numbers = [int(number) for number in re.findall(r"^(\d+)\. \*\*", page, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    for path in (ROOT / "docs").rglob("*.md"):
        for text in re.findall(r"decisions? (\d+(?:(?:, | and )\d+)*)", path.read_text()):
            assert all(int(number) in numbers for number in re.findall(r"\d+", text)), path
