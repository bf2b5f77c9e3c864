"""Can rotated Faster R-CNN learn eight real tiles by heart? Nano trunk, from scratch.

    python benchmarks/overfit_rotated.py --dota FOLDER    # in DOTA's layout

Of each of the first eight images with objects the tile of 256 pixels is taken that shows most
classes, then most objects; these are what is trained on, without flips, and what is evaluated on.
A network that has not learned them misses its bar, AP50 0.9 (exit code 1). Writes
overfit_rotated.json and the curve, overfit_rotated.png. Repeated with the same --work, it goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.interleave import machine, write_json  # noqa: E402
from benchmarks.overfit import curve, run  # noqa: E402
from itpn_ray.data.annotations.tiles import TileObjects, TileReader  # noqa: E402
from itpn_ray.data.store.manifest import read_manifest  # noqa: E402
from itpn_ray.data.store.shards import open_dataset  # noqa: E402
from itpn_ray.runs.journal import METRICS, read_lines  # noqa: E402

TILES, SIDE, GAP = 8, 256, 128
BAR = 0.9
BATCH, EPOCHS, EVALUATIONS = 2, 250, 10


def choose(cut: Path, folder: Path) -> None:
    """Write the chosen tiles in DOTA's layout, the same for training and for evaluation.

    Args:
        cut: prepared tiles of all images.
        folder: to write.
    """
    chosen: dict[str, tuple[int, TileReader, TileObjects]] = {}
    for split in read_manifest(str(cut)).splits:
        reader = TileReader(open_dataset(str(cut), split))
        for row in range(len(reader.dataset)):
            tile = reader[row]
            best = chosen.get(tile.path)
            if worth(tile) > (worth(best[2]) if best else (0, 0)):
                chosen[tile.path] = row, reader, tile
    for number, (row, reader, tile) in enumerate([chosen[path] for path in sorted(chosen)][:TILES]):
        pixels = reader.image(row).permute(1, 2, 0).numpy()
        for split in ("train", "val"):
            for part in ("images", "labelTxt"):
                (folder / split / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / split / "images" / f"{number}.png")
            text = "\n".join(lines(tile, reader.dataset.classes)) + "\n"
            (folder / split / "labelTxt" / f"{number}.txt").write_text(text)


def worth(tile: TileObjects) -> tuple[int, int]:
    """Classes and objects that a tile shows and that count."""
    counted = tile.classes[~tile.crowds]
    return len(np.unique(counted)), len(counted)


def lines(tile: TileObjects, classes: tuple[str, ...]) -> list[str]:
    """A tile's objects as DOTA has them."""
    rows = zip(tile.corners.reshape(-1, 8), tile.classes, tile.crowds, strict=True)
    return [
        f"{' '.join(f'{value:.1f}' for value in corners)} {classes[label]} {int(hard)}"
        for corners, label, hard in rows
    ]


def command(data: Path, out: Path, epochs: int) -> list[str]:
    """The training."""
    return [
        "detect", "nano_rotated", "--data", str(data), "--out", str(out), "--run", "rotated",
        "--workers", "0", "--optim.global-batch", str(BATCH), "--optim.epochs", str(epochs),
        "--optim.warmup-epochs", "5", "--eval-every", str(epochs // EVALUATIONS),
        "--checkpoint.every-steps", "100", "--log-every", "10",
        "--model.image-size", str(SIDE), "--model.drop-path", "0", "--augment.flip", "0",
        "--tracking.kind", "none", "--loader.transport", "threads", "--loader.threads", "1",
    ]  # fmt: skip


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """AP50, and AP over all overlaps, over the steps."""
    figure = Figure(figsize=(4, 3.4), dpi=120, layout="constrained")
    panel = figure.subplots()
    for name, color in (("rotated_AP50", "#2f6f9f"), ("rotated_AP", "#b5482f")):
        steps, values = curve(records, name)
        label = name.removeprefix("rotated_")
        panel.plot(steps, values, "o-", ms=3, color=color, label=label)
    panel.axhline(BAR, lw=0.7, ls=":", color="#2f6f9f")
    panel.set(title="rotated Faster R-CNN", xlabel="step", ylim=(0, 1.02))
    panel.set_ylabel("on the eight tiles")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Software": None})


def main() -> int:
    """Train, and tell what was reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dota", type=Path, required=True, help="folder in DOTA's layout")
    parser.add_argument("--work", type=Path, default=Path("out/overfit_rotated"))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    tiles, data = options.work / "tiles", options.work / "data"
    sides = ["--tile", str(SIDE), "--tile-gap", str(GAP), "--num-workers=0"]
    if not tiles.exists():
        cut = options.work / "cut"
        run(["prepare", "--source", str(options.dota), "--out", str(cut), *sides])
        choose(cut, tiles)
    run(["prepare", "--source", str(tiles), "--out", str(data), *sides])
    arguments = command(data, options.work, options.epochs)
    run(arguments)
    records = read_lines(options.work / "rotated" / METRICS)
    steps, reached = curve(records, "rotated_AP50")
    print(f"AP50 {reached[-1]:.3f} after {steps[-1]} steps (bar {BAR})", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    draw(records, options.out / "overfit_rotated.png")
    result = {
        "machine": machine("cpu"),
        "command": "itpn-ray " + " ".join(arguments),
        "steps": steps,
        "rotated_AP50": reached,
        "rotated_AP": curve(records, "rotated_AP")[1],
    }
    write_json(options.out / "overfit_rotated.json", result)
    return 0 if reached[-1] >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
