"""A package beside this one brings a task, recipes and a data source, by entry points alone."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from itpn_ray.report import write_report
from itpn_ray.runs.reader import read_run
from itpn_ray.tasks.config import TaskConfig
from itpn_ray.tasks.registry import BUILT_IN, settings_class

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ALONE = "--workers 0 --loader.transport threads --loader.threads 1 --tracking.kind none"
COMMANDS = f"""
prepare --source raw --out data --format dots --num-workers 0
plan counting --data data --gpus false --measured-steps 0
finetune counting --data data --gpus false {ALONE}
finetune counting --data data --gpus false {ALONE} --optim.epochs 2
evaluate out/counting --data data --migration 0 0.2 --gpu false
predict out/counting raw/val --out answers --workers 0 --gpu false
export out/counting --out counter.onnx
"""
SCRIPT = """
import sys
from itpn_ray import cli
from itpn_ray.arguments import parse
from itpn_ray.recipes import recipes_of
from itpn_ray.training.launch.driver import preflight
from itpn_ray.tuning.config import SweepConfig, trial

for line in sys.stdin.read().strip().splitlines():
    print("exit code", cli.run(line.split()))
words = ["--data", "data", "--finetune.task.beta", "0.25"]
sweep = parse(SweepConfig, words, "tune counting", recipes_of("tune")["counting"]())
choice = {"layer_decay": 0.5, "migration": 0.2}
one = trial(sweep, "out/tune", "trial-1", choice, init="")
preflight(one)
print("trial", one.task, one.task.headline().name)
"""


def draw_dots(folder: Path, count: int) -> None:
    """Images with 0 to 4 black dots, named by their number."""
    folder.mkdir(parents=True)
    for number in range(count):
        image = Image.new("RGB", (40, 40), "white")
        for dot in range(number % 5):
            ImageDraw.Draw(image).ellipse((8 * dot, 10, 8 * dot + 5, 15), fill="black")
        image.save(folder / f"{number % 5}_{number:02}.png")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where the commands ran, with the package installed, and what they printed."""
    place = tmp_path_factory.mktemp("counting")
    draw_dots(place / "raw/train", 16)
    draw_dots(place / "raw/val", 6)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=COMMANDS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])},
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return place, done.stdout


def test_each_verb_takes_the_task_as_one_of_ours(ran: tuple[Path, str]) -> None:
    place, said = ran
    codes = [line.split()[-1] for line in said.splitlines() if line.startswith("exit code")]
    assert codes == ["0"] * 6 + ["2"], said
    assert "resume: step 2" in said
    assert "from counting.task import CountingTask" in said
    assert "counting'" in said
    assert "is a task of another package" in said
    assert "trial Counting(beta=0.25) dots_off" in said
    answers = json.loads((place / "answers/results.json").read_text())
    assert [set(answer) for answer in answers] == [{"file_name", "dots"}] * 6


def test_a_report_needs_neither_the_task_nor_its_package(ran: tuple[Path, str]) -> None:
    folder = ran[0] / "out/counting"
    assert read_run(folder).title == "Counting dots"
    page = write_report(folder).read_text()
    assert "dots off" in page
    assert "exactly right" in page
    assert "dots_off" not in page
    page = write_report(ran[0] / "out/evaluate").read_text()
    assert "dots off" in page
    assert "dots_off" not in page


def types_asked(path: Path) -> Iterator[str]:
    """Names that a file tests the type of something for, in any of the usual ways."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]):
                yield from (n.id for n in ast.walk(kinds) if isinstance(n, ast.Name))
            case ast.Compare(left=ast.Call(func=ast.Name(id="type")), comparators=kinds_of):
                yield from (n.id for n in kinds_of if isinstance(n, ast.Name))
            case ast.MatchClass(cls=ast.Name(id=name)):
                yield name


def test_nothing_outside_the_tasks_asks_which_task_it_has() -> None:
    settings = {settings_class(name).__name__ for name in BUILT_IN}
    settings |= {settings_class(name).implementation.split(":")[1] for name in BUILT_IN}
    assert all(issubclass(settings_class(name), TaskConfig) for name in BUILT_IN)
    package = ROOT / "itpn_ray"
    # Teachers' features are of one task, and so is the verb that writes them.
    allowed = (package / "tasks", package / "commands/cache_teacher")
    for path in package.rglob("*.py"):
        if not any(path.is_relative_to(place) for place in allowed):
            assert not settings & set(types_asked(path)), path
