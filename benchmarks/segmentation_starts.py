"""Is a pre-trained trunk worth it in segmentation, and its pyramid? Nano UPerNet, three starts.

    python benchmarks/segmentation_starts.py --data PREPARED
    python benchmarks/segmentation_starts.py --data PREPARED --epochs 30 --lr 0.004

Trains UPerNet from scratch, from the trunk of the package's pre-trained network and from its trunk
and pyramid, at one budget, with equal seeds, and writes segmentation_starts.json. A run that is
there is not trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.interleave import machine, write_json  # noqa: E402
from itpn_ray.reproduction.grid import Claim  # noqa: E402
from itpn_ray.reproduction.verdict import judge, score  # noqa: E402
from itpn_ray.runs.journal import METRICS, read_lines  # noqa: E402

STARTS = {
    "scratch": [],
    "trunk": ["--model.init", "zoo:nano_clothing10", "--no-task.init-pyramid"],
    "trunk_and_pyramid": ["--model.init", "zoo:nano_clothing10"],
}
CLAIMS = (("trunk", "scratch"), ("trunk_and_pyramid", "trunk"), ("trunk_and_pyramid", "scratch"))


METRICS_SHOWN = {"miou": "mIoU", "aacc": "pixels that are right"}


def train(start: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Metrics of one run at its end."""
    run = f"{start}-{seed}"
    command = [
        "segment", "nano", *STARTS[start],
        "--data", str(options.data), "--out", str(options.work), "--run", run, "--seed", str(seed),
        "--workers", "0", "--cpus-per-worker", "1", "--eval-every", "0",
        "--optim.epochs", str(options.epochs), "--optim.lr", str(options.lr),
        "--loader.transport", "threads",
        "--tracking.kind", "none",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "itpn_ray", *command], cwd=ROOT, check=True)
    last = [r for r in read_lines(options.work / run / METRICS) if r["split"] == "val"][-1]
    return {name: float(last[name]) for name in METRICS_SHOWN}


def main() -> None:
    """Train each start with each seed, in turn, and tell means and intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared images with masks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.001, help="the recipe's")
    parser.add_argument("--work", type=Path, default=Path("out/segmentation_starts"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.data, options.work = options.data.resolve(), options.work.resolve()
    runs: dict[str, list[dict[str, float]]] = {start: [] for start in STARTS}
    for seed in range(options.seeds):
        for start, ended in runs.items():
            ended.append(train(start, seed, options))
    starts: dict[str, dict[str, object]] = {start: {} for start in STARTS}
    claims = []
    for metric, title in METRICS_SHOWN.items():
        found = {start: [run[metric] for run in ended] for start, ended in runs.items()}
        for start, values in found.items():
            seeds = score(values, metric, 0)
            starts[start][metric] = {"seeds": values, "mean": seeds.value, "half": seeds.half}
            print(f"{start}: {title} {100 * seeds.value:.2f} ± {100 * seeds.half:.2f} %")
        for better, worse in CLAIMS:
            claim = Claim(better=better, worse=worse, column=title)
            claims.append(judge(claim, metric, found[better], found[worse], (None, None)))
            print(f"{claims[-1]['claim']}: {claims[-1]['text']}")
    options.out.mkdir(parents=True, exist_ok=True)
    written = {"machine": machine("cpu"), "epochs": options.epochs, "lr": options.lr}
    written |= {"starts": starts, "claims": claims}
    write_json(options.out / "segmentation_starts.json", written)


if __name__ == "__main__":
    main()
