"""The commands of clusters/README.md are ones that the command line and the shell take."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from itpn_ray.arguments import check, parse
from itpn_ray.cli import VERBS

ROOT = Path(__file__).parents[2]
README = (ROOT / "clusters" / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [
    line for block in BLOCKS for line in re.sub(r"\\\n\s*", " ", block).splitlines() if line.strip()
]


def commands(*words: str) -> list[list[str]]:
    """Arguments after ``words`` of each command that begins with them, without what follows a |."""
    start = " ".join(words) + " "
    lines = [line.removeprefix(start).split(" | ")[0] for line in LINES if line.startswith(start)]
    return [shlex.split(line, comments=True) for line in lines]


def check_verb(arguments: list[str]) -> None:
    """Parse what stands after ``itpn-ray`` as the command line would."""
    from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
    from itpn_ray.experiment import ExperimentConfig
    from itpn_ray.recipes import named
    from itpn_ray.recipes.pretrain import RECIPES

    verb, *rest = arguments
    assert verb in VERBS
    if verb == "plan":
        check(VERBS[verb][0], rest)
    elif verb == "pretrain":
        parse(ExperimentConfig, rest[1:], verb, named(RECIPES, rest[0]))
    else:
        parse({"prepare": PrepareConfig, "synthesize": SynthesizeConfig}[verb], rest, verb)


def test_the_shell_reads_every_block():
    assert len(BLOCKS) > 10
    for block in BLOCKS:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert done.returncode == 0, f"{done.stderr}\n{block}"


@pytest.mark.parametrize("arguments", commands("itpn-ray", "submit"), ids=str)
def test_what_is_submitted_is_a_verb(arguments):
    from jobs.config import SubmitConfig
    from jobs.files import read_job

    if "--" not in arguments:
        config = parse(SubmitConfig, arguments, "submit")
        assert read_job(str(ROOT / config.job), config.set).steps
        return
    place = arguments.index("--")
    options = arguments[:place] if "--address" in arguments or "--kubernetes" in arguments else []
    if options:
        parse(SubmitConfig, options, "submit")
    check_verb(arguments[place + 1 :])


@pytest.mark.parametrize("verb", ["synthesize", "prepare", "plan"])
def test_verbs_on_this_machine(verb):
    (arguments,) = commands("itpn-ray", verb)
    check_verb([verb, *arguments])


def test_files_that_are_named_exist_and_variables_are_set():
    for name in re.findall(r"(?<!out/)clusters/[\w./-]+\w", README):
        assert (ROOT / name).exists(), name
    for wanted, file in re.findall(r"envsubst '([^']+)' < (\S+)", README):
        in_file = set(re.findall(r"\$\{(\w+)\}", (ROOT / file).read_text()))
        assert in_file == set(re.findall(r"\$(\w+)", wanted)), file
        for name in in_file:
            assert re.search(rf"export (\w+=\S+ )*{name}=", README), f"{name} is set nowhere"
