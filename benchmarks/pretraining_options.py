"""What the options of pre-training cost and bring on small real data, against the recipe as it is.

    python benchmarks/pretraining_options.py --data data/clothing10

Each option is trained with each seed for as many epochs; held-out images are reconstructed at full
size and fixed masks, and classified by their nearest neighbours among training images. Seconds are
those of the processor, which other work on the machine disturbs less than the clock. A difference
is that of two runs with one seed; its interval is Student's, 95 %, over the seeds. Writes
pretraining-options.json and .md. A seed takes seven minutes of CPU. Repeated with the same --work,
it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.drawn import prepared_images  # noqa: E402
from benchmarks.lib.interleave import machine, write_json  # noqa: E402
from itpn_ray.runs.journal import METRICS, read_lines  # noqa: E402

PLAIN = "as the recipe has it"
OPTIONS = {
    PLAIN: [],
    "muon": ["--optim.optimizer", "muon"],
    "growing images": ["--task.start-size", "32", "--task.growth-epochs", "{half}"],
}
METRICS_SHOWN = {
    "cpu_s": "CPU seconds",
    "mim": "reconstruction loss, held out",
    "knn_top1": "nearest neighbours, %",
}


def command(options: argparse.Namespace, name: str, seed: int, run: str) -> list[str]:
    """The pre-training of one option with one seed."""
    half = str(options.epochs // 2)
    return [
        sys.executable, "-m", "itpn_ray", "pretrain", "nano",
        "--data", options.data, "--out", str(options.work), "--run", run, "--seed", str(seed),
        "--workers", "0", "--loader.transport", "threads", "--loader.threads", "1",
        "--optim.epochs", str(options.epochs), "--optim.warmup-epochs", "1", "--eval-every", "0",
        "--tracking.kind", "none", *(word.format(half=half) for word in OPTIONS[name]),
    ]  # fmt: skip


def train(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train to the end, and read what came out.

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    run = f"{name.replace(' ', '-')}-{seed}"
    asked = command(options, name, seed, run)
    before = os.times()
    subprocess.run(asked, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    lines = read_lines(options.work / run / METRICS)
    found = {
        key: value for line in lines if line["split"] != "train" for key, value in line.items()
    }
    return {
        "option": name,
        "seed": seed,
        "cpu_s": after.children_user + after.children_system
        - before.children_user - before.children_system,
        "mim": found["mim"],
        "knn_top1": 100 * found["knn_top1"],
    }  # fmt: skip


def difference(found: list[float]) -> str:
    """Mean of differences, and half the width of its 95 % interval; one seed has none."""
    count, mean = len(found), fmean(found)
    if count < 2:
        return f"{mean:+.3g}"
    half = student.ppf(0.975, count - 1) * stdev(found) / math.sqrt(count)
    return f"{mean:+.3g} ± {half:.2g}"


def table(lines: list[dict[str, Any]]) -> str:
    """Means over the seeds, and differences from the recipe."""
    heading = ["option", *(f"{text} | difference" for text in METRICS_SHOWN.values())]
    rows = [" | ".join(heading), " | ".join(["---"] * (1 + 2 * len(METRICS_SHOWN)))]
    plain = {line["seed"]: line for line in lines if line["option"] == PLAIN}
    for name in OPTIONS:
        own = [line for line in lines if line["option"] == name and line["seed"] in plain]
        if not own:
            continue
        cells = [name]
        for key in METRICS_SHOWN:
            cells.append(f"{fmean(line[key] for line in own):.4g}")
            told = difference([line[key] - plain[line["seed"]][key] for line in own])
            cells.append("" if name == PLAIN else told)
        rows.append(" | ".join(cells))
    return "".join(f"| {row} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="prepared images; none: drawn ones, with --quick")
    parser.add_argument("--quick", action="store_true", help="a small run; writes under out/")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("out/pretraining-options"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.seeds, options.out = 2, [0], Path("out/benchmarks")
        options.work = Path("out/pretraining-options-quick")
        options.data = options.data or str(prepared_images(options.work, train=128))
    if not options.data:
        parser.error("name prepared images with --data, or take drawn ones with --quick")
    lines: list[dict[str, Any]] = []
    for seed in options.seeds:  # seed by seed, so that what is there can be compared at any time
        for name in OPTIONS:
            kept = options.work / f"{name.replace(' ', '-')}-{seed}.json"
            if not kept.exists():
                write_json(kept, train(options, name, seed))
            lines.append(json.loads(kept.read_text()))
            print(lines[-1], flush=True)
    where = {**machine("cpu"), "data": Path(options.data).name, "epochs": options.epochs}
    stem = options.out / "pretraining-options"
    write_json(stem.with_suffix(".json"), {"machine": where, "lines": lines})
    stem.with_suffix(".md").write_text(table(lines))
    print(table(lines))


if __name__ == "__main__":
    main()
