"""Table 7: windows, gathering tokens and relative positions of a rotated detector, six rows.

    python benchmarks/table7.py --speed-only                 # images/s of each row, on this machine
    python benchmarks/table7.py --speed-only --quick         # Fast-iTPN-T, tiles of 512 pixels
    python benchmarks/table7.py --data DATA --init WEIGHTS   # trains each row, then times them

The rows are networks of one size that differ in stage 3 alone: attention over the whole map;
in windows (WMSA); with relative positions in windows (HRPE); with gathering tokens (GT); with
positions of windows and of the attention to gathering tokens (RPE); with gathering tokens and
positions in windows. They are timed in turn in one process, from normalised tiles to turned boxes;
weights are random unless they were trained, and then few boxes are found. Writes
table7-<device>-<type>.json and .md; training writes a run a row, which goes on where it was stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.interleave import (  # noqa: E402
    DTYPES,
    Case,
    interleave,
    machine,
    new_parser,
    parse,
    suffix,
    write_json,
)
from itpn_ray.models import create_rotated_rcnn, load_model  # noqa: E402
from itpn_ray.models.acceleration.config import Acceleration  # noqa: E402
from itpn_ray.models.detection.base import Detector  # noqa: E402

WINDOW = 16
"""Side of a window, tokens: a quarter of a tile of 1024 pixels."""
ROWS: dict[str, dict[str, Any]] = {
    "whole map": {},
    "WMSA": {"window": WINDOW},
    "WMSA + HRPE": {"window": WINDOW, "window_position": "windows"},
    "WMSA + GT": {"window": WINDOW, "gathering": True},
    "WMSA + GT + RPE": {"window": WINDOW, "gathering": True, "window_position": "windows+cross"},
    "WMSA + GT + HRPE": {"window": WINDOW, "gathering": True, "window_position": "windows"},
}
"""Row -> settings of the network, as the command line has them."""
PAPER = {
    "whole map": (79.3, 17.3),
    "WMSA": (77.7, 28.4),
    "WMSA + HRPE": (77.9, 27.8),
    "WMSA + GT": (78.6, 28.7),
    "WMSA + GT + RPE": (77.8, 25.9),
    "WMSA + GT + HRPE": (79.0, 26.0),
}
"""Row -> mAP in per cent and images/s in the paper."""
CLASSES = 15


def acceleration(changes: dict[str, Any]) -> Acceleration:
    """The settings of a row as a network takes them."""
    rest = dict(changes)
    return Acceleration(relative_position=rest.pop("window_position", "none"), **rest)


def network_of(options: Namespace, row: str, side: int) -> Detector:
    """The trained network of a row, or one with random weights."""
    if not options.speed_only:
        return load_model(options.work / run_name(row))  # type: ignore[return-value]
    torch.manual_seed(0)
    size = "fast_itpn_tiny" if options.quick else "fast_itpn_base"
    return create_rotated_rcnn(
        size, num_classes=CLASSES, image_size=side, acceleration=acceleration(ROWS[row])
    )


def speeds(options: Namespace) -> dict[str, float]:
    """Images/s of each row, from normalised tiles to turned boxes."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    side = 512 if options.quick else 1024
    images = torch.randn(options.batch, 3, side, side).to(device, dtype)
    sizes = torch.tensor([[side, side]] * options.batch, device=device)
    cases: dict[str, Case] = {}
    for row in ROWS:
        network = network_of(options, row, side).eval().to(device, dtype)
        cases[row] = partial(network.detect, images, sizes)
    with torch.inference_mode():
        seconds = interleave(cases, device, repeats=options.repeats)
    return {row: options.batch / spent for row, spent in seconds.items()}


def run_name(row: str) -> str:
    """Of a row's run."""
    return row.replace(" + ", "-").replace(" ", "-").lower()


def train(options: Namespace, row: str) -> float:
    """Train a row, and return its AP50 over whole images, a fraction."""
    settings = [
        word
        for field, value in ROWS[row].items()
        for word in (f"--model.{field.replace('_', '-')}", str(value).lower())
    ]
    command = [
        *("detect", options.recipe, "--data", options.data, "--model.init", options.init),
        *("--out", str(options.work), "--run", run_name(row), *settings, *options.more),
    ]
    subprocess.run([sys.executable, "-m", "itpn_ray", *command], cwd=ROOT, check=True)
    results = json.loads((options.work / run_name(row) / "results.json").read_text())
    return float(results["rotated_AP50"])


def table(lines: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    rows = ["| stage 3 | mAP | images/s | over whole map | paper: mAP, images/s |"]
    rows += ["|---|---|---|---|---|"]
    for line in lines:
        precision, speed = PAPER[line["row"]]
        own = f"{line['rotated_AP50']:.1%}" if "rotated_AP50" in line else ""
        rows.append(
            f"| {line['row']} | {own} | {line['images_per_s']:.3g} | {line['speed_up']:.2f}x "
            f"| {precision} %, {speed} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--speed-only", action="store_true", help="time networks, train none")
    parser.add_argument("--data", help="prepared tiles to train on")
    parser.add_argument("--init", default="", help="weights to start from")
    parser.add_argument("--recipe", default="fast_itpn_base_rotated_1x")
    parser.add_argument("--work", type=Path, default=Path("out/table7"), help="folder of the runs")
    parser.add_argument("--batch", type=int, default=1, help="tiles that are timed at once")
    parser.add_argument("--more", nargs="*", default=[], help="options for every training")
    options = parse(parser)
    if not (options.speed_only or options.data):
        parser.error("give --data, or --speed-only")
    found = {} if options.speed_only else {row: train(options, row) for row in ROWS}
    measured = speeds(options)
    lines: list[dict[str, Any]] = []
    for row, speed in measured.items():
        line = {"row": row, "images_per_s": speed, "speed_up": speed / measured["whole map"]}
        lines.append(line | ({"rotated_AP50": found[row]} if found else {}))
    where = machine(options.device)
    stem = options.out / f"table7-{suffix(options)}"
    write_json(stem.with_suffix(".json"), {"machine": where, "lines": lines})
    title = f"{where['device']}, {options.dtype}, torch {where['torch']}"
    stem.with_suffix(".md").write_text(f"{title}\n\n{table(lines)}")
    print(table(lines))


if __name__ == "__main__":
    main()
