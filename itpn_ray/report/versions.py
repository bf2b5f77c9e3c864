"""What software and hardware a run's process has: found without importing any of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("itpn-ray", "torch", "torchvision", "timm", "ray", "mlflow", "numpy", "pyarrow")


def versions() -> dict[str, str]:
    """Versions by name, Python and the commit of a source checkout included."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = _commit(Path(__file__).resolve().parents[1])
    return {**found, "commit": commit} if commit else found


def hardware() -> dict[str, str]:
    """The machine: processor, cores, memory, GPUs, system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "processor": _processor(),
        "cores": str(_cores()),
        "memory": f"{memory:.0f} GiB",
        "GPUs": ", ".join(_run("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")),
        "system": platform.platform(terse=True),
    }
    return {name: value for name, value in found.items() if value}


def _cores() -> int:
    """Processors that this process may use; all where the system does not tell, as macOS."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _commit(package: Path) -> str:
    """The checkout's commit, with ``+`` where files differ; empty for an installed package."""
    # The package itself must be tracked, for it may be installed inside another checkout.
    if not _run("git", "-C", str(package), "ls-files", "__init__.py"):
        return ""
    commit = _run("git", "-C", str(package), "rev-parse", "--short=12", "HEAD")
    changed = _run("git", "-C", str(package), "status", "--porcelain", "-uno", ".")
    return f"{commit[0]}{'+' if changed else ''}" if commit else ""


def _run(program: str, *arguments: str) -> list[str]:
    """Lines that a program prints; none where it is missing or fails."""
    if shutil.which(program) is None:
        return []
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
