"""Mask R-CNN on an image of 800x1333 pixels: what the accelerations gain on a whole detector.

Plain, windows, gathering and migration of Fast-iTPN-B (the paper's Fig. 5), and torchvision's
maskrcnn_resnet50_fpn_v2, in turn in one run: from normalised pixels to 100 boxes with their masks
pasted into the image. Weights are random, with the first class preferred, so that every network
finds 100 objects and its mask head has all its work. Writes detectors-<device>-<type>.json and .md.

    python benchmarks/detectors.py                # this machine
    python benchmarks/detectors.py --quick        # Fast-iTPN-T at 480x800
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.acceleration import VARIANTS, wanted
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
from itpn_ray.evaluation.pasting import in_image, paste
from itpn_ray.models import create_rcnn
from itpn_ray.models.detection.base import MAX_DETECTIONS, Detector
from itpn_ray.models.networks.cost import multiply_adds

CLASSES = 80
THEIRS = "torchvision, ResNet-50 FPN v2"


@torch.no_grad()
def prefer_first(layer: nn.Linear, row: int) -> None:
    """Let a class layer be sure of one class, whatever it sees."""
    assert layer.bias is not None
    layer.bias[row] += 10.0


def ours(detector: Detector, images: Tensor, size: tuple[int, int]) -> int:
    """Detect, and paste the masks; how many objects were found."""
    sizes = torch.tensor([size])
    (found,) = detector.detect(images, sizes)
    found = in_image(found, sizes[0], sizes[0])
    assert found.masks is not None
    return sum(1 for _ in paste(found.masks, found.boxes, *size))


def theirs(model: nn.Module, image: Tensor) -> int:
    """The same with torchvision's detector."""
    (found,) = model([image])
    return len((found["masks"] >= 0.5).cpu())


def cases(options: argparse.Namespace) -> tuple[dict[str, Case], dict[str, int]]:
    """Each detector on one image, and the multiply-adds of ours."""
    name, height, width = ("fast_itpn_tiny", 480, 800) if options.quick else (
        "fast_itpn_base", 800, 1333,
    )  # fmt: skip
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    padded = (-(-height // 32) * 32, -(-width // 32) * 32)
    images = torch.zeros(1, 3, *padded)
    images[..., :height, :width] = torch.randn(1, 3, height, width)
    images = images.to(device, dtype)
    made: dict[str, Case] = {}
    work = {}
    for variant in (name for name in VARIANTS if wanted(name, options)):
        acceleration = VARIANTS[variant]
        torch.manual_seed(0)
        detector = create_rcnn(name, num_classes=CLASSES, acceleration=acceleration)
        prefer_first(detector.roi.boxes[0].logits, 0)
        work[variant] = multiply_adds(detector, padded)
        made[variant] = partial(ours, detector.to(device, dtype).eval(), images, (height, width))
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1,
        min_size=height, max_size=width,
        image_mean=[0.0] * 3, image_std=[1.0] * 3,
    )  # fmt: skip
    prefer_first(model.roi_heads.box_predictor.cls_score, 1)
    image = images[0, :, :height, :width]
    made[THEIRS] = partial(theirs, model.to(device, dtype).eval(), image)
    return made, work


def table(lines: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    rows = [
        "| detector | images/s | G multiply-adds | over plain | promised |",
        "|---|---|---|---|---|",
    ]
    for line in lines:
        work = f"{line['multiply_adds'] / 1e9:.0f}" if "multiply_adds" in line else ""
        promise = f"{line['promise']:.2f}x" if "promise" in line else ""
        rows.append(
            f"| {line['detector']} | {line['images_per_s']:.3f} | {work} "
            f"| {line['speed_up']:.2f}x | {promise} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=[""], help="parts of variants' names")
    options = parse(parser)
    made, work = cases(options)
    with torch.inference_mode():
        for name, case in made.items():
            found = case()
            assert found == MAX_DETECTIONS, f"{name} found {found} objects"
        seconds = interleave(made, torch.device(options.device), repeats=options.repeats)
    lines: list[dict[str, Any]] = []
    for name in made:
        line: dict[str, Any] = {"detector": name, "images_per_s": 1 / seconds[name]}
        line["speed_up"] = seconds["plain"] / seconds[name]
        if name in work:
            line |= {"multiply_adds": work[name], "promise": work["plain"] / work[name]}
        lines.append(line)
    where = machine(options.device)
    stem = options.out / f"detectors-{suffix(options)}"
    write_json(stem.with_suffix(".json"), {"machine": where, "lines": lines})
    title = f"{where['device']}, {options.dtype}, torch {where['torch']}"
    stem.with_suffix(".md").write_text(f"{title}\n\n{table(lines)}")
    print(table(lines))


if __name__ == "__main__":
    main()
