"""Can each detector learn eight images by heart? Mask R-CNN, Cascade, DINO without and with masks.

    python benchmarks/overfit.py --coco FOLDER    # annotations/instances_train2017.json, train2017/
    python benchmarks/overfit.py --coco FOLDER --heads dino dino_masks

Each has the nano trunk. The first eight images with objects, in the order of their ids, are what is
trained on and what is evaluated on, without crops or flips. A head that has not learned them misses
its bar: box AP50 0.9, mask AP50 0.8 (exit code 1). Writes overfit.json and the curves, overfit.png.
Takes more than an hour on two cores; a run that was stopped goes on when the command is repeated
with the same --work.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.interleave import machine, write_json  # noqa: E402
from itpn_ray.runs.journal import METRICS, read_lines  # noqa: E402

IMAGES = 8
BARS = {"box_AP50": 0.9, "mask_AP50": 0.8}
BATCH = 2
SHORT, LONG = 256, 384
EPOCHS = {"mask_rcnn": 150, "cascade_mask_rcnn": 150, "dino": 300, "dino_masks": 300}
EVALUATIONS = 10
HEADS: dict[str, list[str]] = {
    "mask_rcnn": ["nano", "--task.head", "mask_rcnn"],
    "cascade_mask_rcnn": ["nano", "--task.head", "cascade_mask_rcnn"],
    "dino": ["nano_dino"],
    "dino_masks": ["nano_dino", "--task.masks", "true"],
}


def choose(coco: Path, folder: Path) -> None:
    """Write COCO's layout with the same eight images for training and for evaluation."""
    whole = json.loads((coco / "annotations/instances_train2017.json").read_text())
    annotated = {annotation["image_id"] for annotation in whole["annotations"]}
    images = sorted(
        (image for image in whole["images"] if image["id"] in annotated),
        key=lambda image: image["id"],
    )[:IMAGES]
    chosen = {image["id"] for image in images}
    part = {
        "images": images,
        "annotations": [a for a in whole["annotations"] if a["image_id"] in chosen],
        "categories": whole["categories"],
    }
    for split in ("train2017", "val2017"):
        (folder / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(part))
        for image in images:
            shutil.copy(coco / "train2017" / image["file_name"], folder / split)


def command(head: str, data: Path, out: Path, epochs: int) -> list[str]:
    """The training of one head."""
    return [
        "detect", *HEADS[head],
        "--data", str(data), "--out", str(out), "--run", head, "--workers", "0",
        "--optim.global-batch", str(BATCH), "--optim.epochs", str(epochs),
        "--optim.warmup-epochs", "5", "--eval-every", str(epochs // EVALUATIONS),
        "--checkpoint.every-steps", "100", "--log-every", "10",
        "--model.image-size", str(SHORT), "--model.drop-path", "0",
        "--task.short-side", str(SHORT), "--task.long-side", str(LONG),
        "--augment.short-sides", str(SHORT), "--augment.long-side", str(LONG),
        "--augment.crop", "0", "--augment.flip", "0", "--tracking.kind", "none",
        "--loader.transport", "threads", "--loader.threads", "1",
    ]  # fmt: skip


def run(arguments: list[str]) -> None:
    """One verb of the command line."""
    subprocess.run([sys.executable, "-m", "itpn_ray.cli", *arguments], cwd=ROOT, check=True)


def curve(records: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a figure of the evaluations."""
    found = [r for r in records if r["split"] == "val" and name in r]
    return [r["step"] for r in found], [r[name] for r in found]


def draw(records: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """A panel a head: AP50 of boxes and masks over the steps."""
    figure = Figure(figsize=(4 * len(records), 3.4), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(records), squeeze=False)[0]
    for panel, (head, found) in zip(panels, records.items(), strict=True):
        for name, color in (("box_AP50", "#2f6f9f"), ("mask_AP50", "#b5482f")):
            steps, values = curve(found, name)
            if steps:
                panel.plot(steps, values, "o-", ms=3, color=color, label=name.replace("_AP50", ""))
                panel.axhline(BARS[name], lw=0.7, ls=":", color=color)
        panel.set(title=head.replace("_", " "), xlabel="step", ylim=(0, 1.02))
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, loc="lower right")
    panels[0].set_ylabel("AP50 on the eight images")
    figure.savefig(path, metadata={"Software": None})


def main() -> int:
    """Train each head, and tell what it reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coco", type=Path, required=True, help="folder in COCO's layout")
    parser.add_argument("--work", type=Path, default=Path("out/overfit"), help="data and runs")
    parser.add_argument("--heads", nargs="*", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--epochs", type=int, help="of each head, in place of its own number")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    data = options.work / "data"
    if not (options.work / "coco").exists():
        choose(options.coco, options.work / "coco")
    run(["prepare", "--source", str(options.work / "coco"), "--out", str(data), "--num-workers=0"])
    records, lines, met = {}, {}, True
    for head in options.heads:
        arguments = command(head, data, options.work, options.epochs or EPOCHS[head])
        run(arguments)
        records[head] = read_lines(options.work / head / METRICS)
        reached = {name: curve(records[head], name)[1] for name in BARS}
        lines[head] = {name: values[-1] for name, values in reached.items() if values}
        lines[head]["command"] = "itpn-ray " + " ".join(arguments)
        for name, values in reached.items():
            if values:
                met &= values[-1] >= BARS[name]
                print(f"{head}: {name} {values[-1]:.3f} (bar {BARS[name]})", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    draw(records, options.out / "overfit.png")
    write_json(options.out / "overfit.json", {"machine": machine("cpu"), "heads": lines})
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
