"""Every command that documentation and messages name is one that the command line takes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from itpn_ray import arguments, cli
from itpn_ray.arguments import options, parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "clusters/README.md"]
SOURCES = [*sorted((ROOT / "itpn_ray").rglob("*.py")), *sorted((ROOT / "jobs").rglob("*.py"))]
OTHERS = {"--sort", "--backend-store-uri", "--blr", "--help", "--verbose"}
"""Options of other programs, and those of every verb."""


class Parsed(Exception):
    """A command was understood; nothing is run."""


@pytest.fixture(autouse=True)
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: Any) -> None:
        parse(*given)
        raise Parsed

    monkeypatch.setattr(arguments, "parse", stop)


def strings(path: Path) -> Iterator[str]:
    """All texts of a source file, docstrings among them; X stands for what is filled in."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield "".join(
                str(getattr(part, "value", "X")) if isinstance(part, ast.Constant) else "X"
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in inside:
            yield str(node.value)


def code_lines(page: str) -> Iterator[str]:
    """Commands of a page's blocks of code, continued lines joined and shell variables filled in."""
    variables: dict[str, str] = {}
    fenced = re.findall(r"^```(?:bash|sh)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)
    for line in re.sub(r"\\\n\s*", " ", "\n".join([*fenced, *indented])).splitlines():
        line = line.strip()
        if found := re.fullmatch(r'(\w+)="([^"$]*)"', line):
            variables[f"${found[1]}"] = found[2]
        for name, value in variables.items():
            line = re.sub(rf"{re.escape(name)}\b", value, line)
        if line.startswith("itpn-ray "):
            yield line


def commands() -> Iterator[tuple[str, str]]:
    """Each command, and where it stands."""
    for path in PAGES:
        page = path.read_text()
        for line in (*code_lines(page), *re.findall(r"`(itpn-ray [^`]+)`", page)):
            yield path.name, line
    for path in SOURCES:
        for text in strings(path):
            quoted = re.findall(r"`(itpn-ray [^`]+)`", text)
            noted = re.findall(r"Command: (itpn-ray .*)", text)
            for line in (*quoted, *noted):
                yield str(path.relative_to(ROOT)), " ".join(line.split())


def takes(words: list[str]) -> bool:
    """Whether the command line understands the words behind ``itpn-ray``."""
    verb, *rest = words
    if verb == "submit" and "--" in rest:
        place = rest.index("--")
        own = [verb, *(word for word in rest[:place] if word != "...")]
        return takes(own) and takes(rest[place + 1 :])
    if verb not in cli.VERBS or not any(word.startswith("--") for word in rest):
        # Only named, so nothing is asked of its options; a recipe must exist.
        return verb in {*cli.VERBS, "--help"} and (not rest or takes([*words, "--help"]))
    try:
        cli.VERBS[verb][0](rest, False)
    except Parsed:
        return True
    except SystemExit as stop:
        return not stop.code
    return False


def filled(line: str) -> list[str]:
    """The words behind ``itpn-ray``, with something for what is left open."""
    line = line.split(" | ")[0].replace("--address X", "--address http://X")
    words = shlex.split(line, comments=True)[1:]
    if words[1:2] == ["X"] or words[1:2] == ["RECIPE"]:
        words[1] = "nano_clip" if words[0] == "cache-teacher" else "nano"
    if words[-1] == "..." and not words[-2].startswith("--"):
        del words[-1]
    return words


@pytest.mark.parametrize(("where", "line"), sorted(set(commands())), ids=str)
def test_a_command_that_is_named_can_be_given(where: str, line: str) -> None:
    assert takes(filled(line)), where


def test_commands_in_messages_are_quoted() -> None:
    """So that it is seen where they end, by people and by the test above."""
    verbs = "|".join(cli.VERBS)
    for path in SOURCES:
        for text in strings(path):
            named = re.sub(r"`+itpn-ray[^`]*`+|Command: itpn-ray .*", "", text)
            assert not re.search(rf"\bitpn-ray (?:[a-z-]+ --|(?:{verbs}) [A-Z])", named), text


def known_options(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The options of all verbs and recipes."""
    known = set(OTHERS)

    def note(cls: Any, words: list[str], prog: str, default: object = None) -> None:
        known.update(f"--{name}" for name, _ in options(cls, default))
        raise Parsed

    monkeypatch.setattr(arguments, "parse", note)
    for verb, (run, _) in cli.VERBS.items():
        named = {
            "detect": ["nano", "nano_dino"],
            "pretrain": ["nano", "nano_clip"],
            "cache-teacher": ["nano_clip"],
        }
        for name in named.get(verb, ["nano"]):
            with pytest.raises(Parsed):
                run([name, "--", name], False)
    return known


def test_options_in_messages_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    known = known_options(monkeypatch)
    for path in SOURCES:
        for text in strings(path):
            if "var(--" in text or "{--" in text:
                continue  # a style sheet
            for option in re.findall(r"[ `(](--[a-z][\w.-]*\w)", text):
                meant = meanings(option.replace("_", "-"))
                assert known & meant, (path, text)


def meanings(option: str) -> set[str]:
    """The options that one in a text may stand for."""
    if not option.startswith("--space."):
        return {option, option.replace("no-", "", 1)}
    # A sweep's dimensions are named by the paths of fields, of either stage.
    path = option.removeprefix("--space.")
    if path == "PATH":
        return {"--space"}
    return {f"--{path}", f"--finetune.{path}", f"--pretrain.{path}"}


def test_a_dimension_stands_for_a_field_of_either_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    known = known_options(monkeypatch)
    for path in ("optim.lr", "task.mask-ratio", "task.label-smoothing", "pretrain.task.mask-ratio"):
        assert known & meanings(f"--space.{path}"), path
    assert not known & meanings("--space.finetune.task.mask-ratio")
    assert not known & meanings("--space.optim.rate")
