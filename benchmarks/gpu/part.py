"""Runs one part in this process: `python -m benchmarks.gpu.part NAME --out FOLDER`."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import PartResult
from benchmarks.gpu.scale import FULL, TOY

MINUTES = {
    "correctness": 1.6,
    "trunk": 1.9,
    "acceleration": 1.9,
    "pretraining": 1.4,
    "input": 0.7,
    "detection": 1.1,
    "segmentation": 0.3,
}
"""Part, in the order in which they run -> minutes after which it begins no further case."""
PACKAGES = ("torch", "torchvision", "timm", "transformers", "numpy")
QUERY = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"


def run_part(name: str, out: Path, *, dry: bool) -> PartResult:
    """Run a part from its beginning, and write OUT/NAME.json.

    Args:
        name: of the part.
        out: folder of the results.
        dry: at toy sizes on the CPU.
    """
    # cuBLAS reads it once; without it the deterministic runs of the first part cannot repeat.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from benchmarks.gpu.bench import Bench

    begin = time.monotonic()
    device, scale = torch.device("cpu" if dry else "cuda"), TOY if dry else FULL
    torch._dynamo.config.recompile_limit = 64  # one form of a network a case
    if not dry:
        torch.backends.cuda.matmul.allow_tf32 = True  # as training has it
        torch.backends.cudnn.allow_tf32 = True
    module = import_module(f"benchmarks.gpu.{name}")
    result = PartResult(
        path=out / f"{name}.json",
        scale=scale.name,
        title=module.TITLE,
        columns=module.COLUMNS,
        machine=machine(dry),
    )
    with tempfile.TemporaryDirectory(prefix="itpn-ray-gpu-") as scratch:
        module.run(
            Bench(
                device=device,
                scale=scale,
                scratch=Path(scratch),
                result=result,
                deadline=begin + 60 * MINUTES[name] * (10 if dry else 1),
            )
        )
    result.seconds = time.monotonic() - begin
    result.write()
    return result


def machine(dry: bool) -> dict[str, Any]:
    """Card, clocks and versions."""
    import torch

    found = {name: _version(name) for name in PACKAGES}
    found |= {"python": platform.python_version(), "cores": os.cpu_count(), "device": "CPU"}
    if not dry:
        query = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
        told = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        found |= {
            "device": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            QUERY: told.strip(),
        }
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MINUTES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    return 1 if run_part(options.name, options.out, dry=options.dry_run).failed else 0


if __name__ == "__main__":
    sys.exit(main())
