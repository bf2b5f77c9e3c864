"""The curves of a pre-training: reconstruction, feature loss by stage, nearest-neighbour probe.

python benchmarks/curves.py out/pre docs/images/pretraining-clothing10.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from itpn_ray.runs.journal import METRICS, read_lines  # noqa: E402


def curve(records: list[dict[str, Any]], split: str, name: str) -> tuple[list[float], list[float]]:
    """Epochs and values of a figure of a split."""
    chosen = [r for r in records if r["split"] == split and name in r]
    return [r["epoch"] for r in chosen], [r[name] for r in chosen]


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Three panels over the epochs."""
    figure = Figure(figsize=(12, 3.6), dpi=120, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(*curve(records, "train", "mim"), lw=0.8, color="#9db8cf", label="training")
    left.plot(*curve(records, "val", "mim"), "o-", ms=3, color="#2f6f9f", label="held-out")
    left.set_title("reconstruction loss")
    for stage, color in ((1, "#2f6f9f"), (2, "#b5482f"), (3, "#4c8a4a")):
        name = f"mfm_stage{stage}"
        middle.plot(*curve(records, "train", name), lw=0.5, color=color, alpha=0.5)
        middle.plot(*curve(records, "val", name), "o-", ms=3, color=color, label=f"stage {stage}")
    middle.set_yscale("log")
    middle.set_title("feature loss")
    epochs, shares = curve(records, "probe", "knn_top1")
    right.plot(epochs, [100 * share for share in shares], "o-", ms=3, color="#2f6f9f")
    right.set_title("nearest-neighbour top-1, %")
    for panel in (left, middle, right):
        panel.set_xlabel("epoch")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in (left, middle):
        panel.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    draw(read_lines(Path(sys.argv[1]) / METRICS), Path(sys.argv[2]))
