"""Who may import whom: the arrows of docs/explanation/architecture.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from itpn_ray.tasks.registry import BUILT_IN, settings_class

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "itpn_ray"

LEVELS: list[set[str]] = [
    {
        "errors",
        "interrupt",
        "checks",
        "metrics",
        "plugins",
        "renamed",
        "rng",
        "allocator",
        "formatting",
        "keywords",
        "unprefixed",
    },
    {"storage"},
    {"ray_runtime", "tracking", "runs", "terminal", "costs"},
    {"models", "data"},
    {"evaluation", "report"},
    {"tasks"},
    {"experiment"},
    {"training"},
    {"tuning"},
    {"recipes"},
    {"reproduction"},
    {"arguments", "commands"},
    {"api", "cli", "__main__"},
]
"""Packages from the bottom up: each imports from its own level and from those below it."""

MAY_IMPORT = {
    "ray.data": {"data", "ray_runtime"},
    "ray.train": {"training", "tuning", "ray_runtime"},
    "ray.tune": {"tuning"},
    "ray.job_submission": {"jobs"},
    "mlflow": {"tracking"},
    "boto3": {"storage"},
}
"""Library -> the only packages that import it."""

PLAIN_TORCH = {"models", "tasks", "evaluation"}
"""Packages that must run on a machine with PyTorch alone."""

PRIVATE_RAY = re.compile(
    r"\bray\.(\w+\.)*(_|v2\b|core\.generated)"
    r"|\bray(\.\w+)* import \(?\s*(_|v2\b)"
    r"|iter_internal_ref_bundles"
)
"""Names that Ray keeps private, as they stand in imports, attributes and texts."""

MAY_NAME_PRIVATE_RAY = {
    "itpn_ray/ray_runtime/compat.py": "all that the product needs of them",
    "tests/ray_runtime/test_compat.py": "what each must have",
    "tests/ray_runtime/test_placement.py": "the policies that placement is built on",
    "benchmarks/lib/spot_market.py": "Ray has no other provider of nodes without a cloud",
    "tests/training/launch/drain_a_node.py": "`ray drain-node` is hidden and takes 10 s to start",
    "tests/clusters/test_aws_nodes.py": "what `ray up` starts machines with has no public name",
    "tests/clusters/test_configs.py": "`ray up` checks a file with these, and then asks a cloud",
}
"""The only files that name them, and why."""


def package_of(path: Path) -> str:
    if path.is_relative_to(ROOT / "jobs"):
        return "jobs"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    found = [*PACKAGE.rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
    return [path for path in found if path != PACKAGE / "__init__.py"]


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level_of(package: str) -> int:
    return next(level for level, packages in enumerate(LEVELS) if package in packages)


def test_every_package_has_a_level() -> None:
    packages = {package_of(path) for path in sources()} - {"jobs"}
    assert packages == set().union(*LEVELS)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    package = package_of(path)
    if package == "jobs":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "itpn_ray" and len(parts) > 1:
            assert level_of(parts[1]) <= level_of(package), f"{package} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_libraries_stay_in_their_packages(path: Path) -> None:
    package = package_of(path)
    for name in imports(path):
        for library, packages in MAY_IMPORT.items():
            if name == library or name.startswith(f"{library}."):
                assert package in packages, f"{package} imports {name}"
        if package in PLAIN_TORCH:
            assert name.split(".")[0] not in ("ray", "mlflow"), f"{package} imports {name}"


def test_what_ray_keeps_private_is_named_in_one_module() -> None:
    folders = ("itpn_ray", "jobs", "benchmarks", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    naming = {str(path.relative_to(ROOT)) for path in files if PRIVATE_RAY.search(path.read_text())}
    assert naming - {"tests/test_imports.py"} == set(MAY_NAME_PRIVATE_RAY)


TASKS = ", ".join(settings_class(name).implementation.partition(":")[0] for name in BUILT_IN)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("itpn_ray.models", ("ray", "mlflow")),
        (TASKS, ("ray", "mlflow")),
        ("itpn_ray", ("torch", "ray", "timm", "mlflow", "rich", "tyro", "numpy")),
        ("itpn_ray.cli", ("torch", "ray", "timm", "mlflow", "rich", "tyro")),
        ("itpn_ray.experiment", ("torch", "ray", "timm", "mlflow")),
        ("itpn_ray.tuning.config", ("torch", "ray", "timm", "mlflow")),
    ],
)
def test_import_stays_light(module: str, absent: tuple[str, ...]) -> None:
    """``module``: one, or several with commas between them."""
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
