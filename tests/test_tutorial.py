"""The path from a folder of photographs to an exported network, command by command."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from itpn_ray import cli
from tests.data.made import make_image

PAGE = Path(__file__).resolve().parent.parent / "docs/tutorials/own-images.md"
TITLE = "## From 2,000 photographs to an exported network"


def commands() -> list[list[str]]:
    """The commands of the section, with one epoch where it has many."""
    section = PAGE.read_text().split(TITLE)[1]
    block = re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[0]
    lines = re.sub(r"\\\n\s*", " ", block).splitlines()
    return [shlex.split(re.sub(r"(--optim.epochs) \d+", r"\1 1", line)) for line in lines]


@pytest.mark.slow
def test_every_command_of_the_path_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, count in (("photographs/cat", 24), ("photographs/dog", 24), ("new_photographs", 2)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            make_image(number, 80, 72).save(tmp_path / folder / f"{number + 1}.jpg")
    monkeypatch.chdir(tmp_path)
    for program, *words in commands():
        assert program == "itpn-ray"
        assert cli.run(words) == 0, words
    (first, _) = json.loads(Path("out/evaluate/results.json").read_text())["migration"]
    assert first["images_per_s_low"] <= first["images_per_s"] <= first["images_per_s_high"]
    assert Path("photographs.onnx").stat().st_size > 1_000_000
    assert len(json.loads(Path("answers/results.json").read_text())) == 2
