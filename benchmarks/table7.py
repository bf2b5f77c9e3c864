"""Table 7: how fast a rotated detector is with windows, gathering tokens and positions, six rows.

    python benchmarks/table7.py            # Fast-iTPN-B, tiles of 1024 pixels, this machine
    python benchmarks/table7.py --quick    # Fast-iTPN-T, tiles of 512 pixels

The rows are networks of one size that differ in stage 3 alone: attention over the whole map;
in windows (WMSA); with relative positions in windows (HRPE); with gathering tokens (GT); with
positions of windows and of the attention to gathering tokens (RPE); with gathering tokens and
positions in windows. They are timed in turn in one process, from normalised tiles to turned boxes;
their weights are random and see nothing anywhere, so that suppression, which is the same for all,
takes no part. `itpn-ray reproduce table7` trains them. Writes table7-<device>-<type>.json and .md.
"""

from __future__ import annotations

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
from itpn_ray.models import create_rotated_rcnn  # noqa: E402
from itpn_ray.models.acceleration.config import Acceleration  # noqa: E402

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
    "whole map": 17.3,
    "WMSA": 28.4,
    "WMSA + HRPE": 27.8,
    "WMSA + GT": 28.7,
    "WMSA + GT + RPE": 25.9,
    "WMSA + GT + HRPE": 26.0,
}
"""Row -> images/s in the paper."""
CLASSES = 15


def acceleration(changes: dict[str, Any]) -> Acceleration:
    """The settings of a row as a network takes them."""
    rest = dict(changes)
    return Acceleration(relative_position=rest.pop("window_position", "none"), **rest)


def speeds(options: Namespace) -> dict[str, float]:
    """Images/s of each row, from normalised tiles to turned boxes."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    side = 512 if options.quick else 1024
    images = torch.randn(options.batch, 3, side, side).to(device, dtype)
    sizes = torch.tensor([[side, side]] * options.batch, device=device)
    size = "fast_itpn_tiny" if options.quick else "fast_itpn_base"
    cases: dict[str, Case] = {}
    for row, changes in ROWS.items():
        torch.manual_seed(0)
        network = create_rotated_rcnn(
            size, num_classes=CLASSES, image_size=side, acceleration=acceleration(changes)
        )
        with torch.no_grad():
            network.roi.box.logits.bias[-1] += 10.0  # nothing
        cases[row] = partial(network.eval().to(device, dtype).detect, images, sizes)
    with torch.inference_mode():
        seconds = interleave(cases, device, repeats=options.repeats)
    return {row: options.batch / spent for row, spent in seconds.items()}


def table(lines: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    rows = ["| stage 3 | images/s | over whole map | paper: images/s, over whole map |"]
    rows += ["|---|---|---|---|"]
    for line in lines:
        speed = PAPER[line["row"]]
        rows.append(
            f"| {line['row']} | {line['images_per_s']:.3g} | {line['speed_up']:.2f}x "
            f"| {speed}, {speed / PAPER['whole map']:.2f}x |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1, help="tiles that are timed at once")
    options = parse(parser)
    measured = speeds(options)
    lines: list[dict[str, Any]] = [
        {"row": row, "images_per_s": speed, "speed_up": speed / measured["whole map"]}
        for row, speed in measured.items()
    ]
    where = machine(options.device)
    stem = options.out / f"table7-{suffix(options)}"
    write_json(stem.with_suffix(".json"), {"machine": where, "lines": lines})
    title = f"{where['device']}, {options.dtype}, torch {where['torch']}"
    stem.with_suffix(".md").write_text(f"{title}\n\n{table(lines)}")
    print(table(lines))


if __name__ == "__main__":
    main()
