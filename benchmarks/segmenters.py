"""Segmenters on a window of 512 pixels: heads side by side, and what the accelerations gain.

UPerNet, MaskDINO, a light head of queries (EoMT's manner) and one of pixels on the same trunk, each
plain, with migration, with windows and gathering, and with all of them, in turn in one run: from
normalised pixels to the class of each pixel. Weights are random. Writes
segmenters-<device>-<type>.json and .md.

    python benchmarks/segmenters.py                # this machine, Fast-iTPN-B
    python benchmarks/segmenters.py --network fast_itpn_tiny
    python benchmarks/segmenters.py --quick        # the nano
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.acceleration import VARIANTS
from benchmarks.lib.interleave import (
    DTYPES,
    Case,
    interleave,
    machine,
    new_parser,
    parse,
    suffix,
    write_json,
)
from itpn_ray.models import create_segmenter
from itpn_ray.models.config import SIZES
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.models.segmentation.config import HEADS
from itpn_ray.models.segmentation.sliding import Viewing

CLASSES = 150
CHOSEN = ("plain", "migration r = 0.2", "windows + gathering", "all together, r = 0.3")
Key = tuple[str, str]
"""Head and variant."""


def cases(options: argparse.Namespace) -> tuple[dict[Key, Case], dict[Key, int]]:
    """Each segmenter on one image, and its multiply-adds."""
    name = options.network or ("fast_itpn_nano" if options.quick else "fast_itpn_base")
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    size = (options.side, options.side)
    images = torch.randn(1, 3, *size).to(device, dtype)
    made: dict[Key, Case] = {}
    work = {}
    for head in options.heads:
        for variant in options.variants:
            torch.manual_seed(0)
            acceleration = VARIANTS[variant]
            network = create_segmenter(
                name, num_classes=CLASSES, head=head, acceleration=acceleration
            )
            network.viewing = Viewing(window=0)
            work[head, variant] = multiply_adds(network, size)
            network = network.to(device, dtype).eval()
            made[head, variant] = partial(network.segment, images, torch.tensor([size]), [size])
    return made, work


def table(lines: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    rows = [
        "| head | variant | images/s | G multiply-adds | over plain | promised | over first head |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        rows.append(
            f"| {line['head']} | {line['variant']} | {line['images_per_s']:.3f} "
            f"| {line['multiply_adds'] / 1e9:.0f} | {line['speed_up']:.2f}x "
            f"| {line['promise']:.2f}x | {line['over_first']:.2f}x |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--network", choices=SIZES, help="Fast-iTPN-B; --quick: the nano")
    parser.add_argument("--side", type=int, default=512, help="of the image, pixels")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument("--variants", nargs="+", default=list(CHOSEN), choices=list(VARIANTS))
    options = parse(parser)
    made, work = cases(options)
    with torch.inference_mode():
        seconds = interleave(made, torch.device(options.device), repeats=options.repeats)
    lines: list[dict[str, Any]] = []
    for head, variant in made:
        key, plain = (head, variant), (head, options.variants[0])
        lines.append(
            {
                "head": head,
                "variant": variant,
                "images_per_s": 1 / seconds[key],
                "multiply_adds": work[key],
                "speed_up": seconds[plain] / seconds[key],
                "promise": work[plain] / work[key],
                "over_first": seconds[options.heads[0], variant] / seconds[key],
            }
        )
    where = machine(options.device)
    stem = options.out / f"segmenters-{suffix(options)}"
    write_json(stem.with_suffix(".json"), {"machine": where, "lines": lines})
    title = f"{where['device']}, {options.dtype}, torch {where['torch']}, {options.side} pixels"
    stem.with_suffix(".md").write_text(f"{title}\n\n{table(lines)}")
    print(table(lines))


if __name__ == "__main__":
    main()
