"""What is imported is asked for in pyproject.toml, and what is asked for is imported or used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

NAMED_OTHERWISE = {
    "PIL": "pillow",
    "grpc": "grpcio",
    "nvidia": "nvidia-nvimgcodec-cu13",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Module -> the distribution that brings it, where the names differ."""

OURS = {"itpn_ray", "jobs", "tests", "benchmarks", "counting", "my_tasks"}
"""Packages of this repository; the last two are the plug-in of a test and of a page."""

BESIDE = {"streaming"}
"""Imported by benchmarks and installed by hand, see pyproject.toml."""

USED_OTHERWISE = {
    # By torch.onnx, when itpn_ray/models/weights/export.py writes or reads such a file.
    "onnx": "itpn_ray/models/weights/export.py",
    "onnxruntime": "itpn_ray/models/weights/export.py",
    "onnxscript": "itpn_ray/models/weights/export.py",
    # By what MosaicML Streaming imports, see pyproject.toml.
    "brotli": "pyproject.toml",
    "catalogue": "pyproject.toml",
    "python-snappy": "pyproject.toml",
    "xxhash": "pyproject.toml",
    "zstd": "pyproject.toml",
    # By commands and configuration files.
    "moto": "tests/s3.py",
    "mypy": "Makefile",
    "pytest-cov": "Makefile",
    "ruff": "Makefile",
    "types-pyyaml": "Makefile",
    "pre-commit": ".pre-commit-config.yaml",
    "pytest-timeout": "pyproject.toml",
    "pytest-xdist": "Makefile",
    "mkdocs-material": "mkdocs.yml",
    "mkdocstrings": "mkdocs.yml",
}
"""Distribution that nothing imports -> the file that uses it."""

SCOPES = {
    "": ("itpn_ray", "jobs"),
    "export": ("itpn_ray", "jobs"),
    "dev": ("tests", "benchmarks"),
    "bench": ("benchmarks",),
    "docs": ("docs",),
}
"""Extra, or none -> the folders that it serves."""


def distribution(name: str) -> str:
    """A distribution's name without version, extras and marker, as the package index spells it."""
    return re.split(r"[\[<>=;\s]", name)[0].lower().replace("_", "-")


def imported(*folders: str) -> dict[str, str]:
    """Distribution -> a file that imports it, of all Python files below the folders."""
    found = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for module in modules(path):
            if module not in sys.stdlib_module_names | OURS | BESIDE:
                found[NAMED_OTHERWISE.get(module, distribution(module))] = str(path)
    return found


def modules(path: Path) -> Iterator[str]:
    """First parts of the names that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.fixture(scope="module")
def asked() -> dict[str, set[str]]:
    """Extra, or none -> distributions that pyproject.toml asks for."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"] | {"": project["dependencies"]}
    return {extra: set(map(distribution, names)) for extra, names in extras.items()}


def test_every_extra_serves_some_folders(asked: dict[str, set[str]]) -> None:
    assert asked.keys() == SCOPES.keys()


@pytest.mark.parametrize("extra", SCOPES)
def test_what_is_asked_for_is_used(extra: str, asked: dict[str, set[str]]) -> None:
    used = imported(*SCOPES[extra]).keys()
    assert asked[extra] - used - USED_OTHERWISE.keys() == set()


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("itpn_ray", "jobs"), ("", "export")),
        (("tests",), ("", "dev")),
        (("benchmarks",), ("", "dev", "bench")),
        (("docs",), ("", "docs")),
    ],
)
def test_what_is_imported_is_asked_for(
    folders: tuple[str, ...], extras: tuple[str, ...], asked: dict[str, set[str]]
) -> None:
    enough = set().union(*(asked[extra] for extra in extras))
    assert {name: at for name, at in imported(*folders).items() if name not in enough} == {}


@pytest.mark.parametrize(("name", "file"), USED_OTHERWISE.items())
def test_who_uses_the_others_exists(name: str, file: str, asked: dict[str, set[str]]) -> None:
    assert (ROOT / file).exists()
    assert name in set().union(*asked.values())
