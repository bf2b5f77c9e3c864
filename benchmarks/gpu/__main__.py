"""What does my card give? Everything that is said of speed on a GPU, in one command.

    python -m benchmarks.gpu                      # all parts, under ten minutes on an H100
    python -m benchmarks.gpu --parts trunk input  # some of them
    python -m benchmarks.gpu --dry-run            # toy sizes on the CPU: that it runs at all

Each part is a process of its own, so that one which breaks the card's context takes nothing with
it. Repeated, the command runs only the parts that have not ended well; --again runs them all.
Writes OUT/<part>.json, results.md and plots. Exit code 1 if a case failed, or a bar is missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.bars import bars
from benchmarks.gpu.part import MINUTES
from benchmarks.gpu.report import write_report
from benchmarks.gpu.results import PartResult
from benchmarks.gpu.scale import FULL, TOY


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    scale = (TOY if options.dry_run else FULL).name
    broken = [name for name in options.parts if not run_if_needed(name, scale, options)]
    parts = {name: PartResult.read(options.out / f"{name}.json") for name in MINUTES}
    parts = {name: part for name, part in parts.items() if part.scale == scale}
    print(write_report(parts, options.out / "results.md"))
    print(f"written to {options.out}")
    if broken:
        print(f"ended badly: {', '.join(broken)}; see above", file=sys.stderr)
    missed = not options.dry_run and any(bar.met is False for bar in bars(parts))
    return 1 if broken or missed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; it ends here where there is no card."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=MINUTES, default=list(MINUTES))
    parser.add_argument("--out", type=Path, help="folder; docs/benchmarks/gpu unless a dry run")
    parser.add_argument("--dry-run", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--again", action="store_true", help="also what has ended well")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("there is no GPU here; --dry-run shows on the CPU that the suite runs")
    usual = "out/benchmarks/gpu" if options.dry_run else "docs/benchmarks/gpu"
    options.out = options.out or Path(usual)
    return options


def run_if_needed(name: str, scale: str, options: argparse.Namespace) -> bool:
    """Run a part unless it has ended well before; whether no case of it failed."""
    path = options.out / f"{name}.json"
    if not options.again and PartResult.read(path).done(scale):
        print(f"{name}: done before")
        return True
    print(f"--- {name}", flush=True)
    command = [sys.executable, "-m", "benchmarks.gpu.part", name, "--out", str(options.out)]
    command += ["--dry-run"] * options.dry_run
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
