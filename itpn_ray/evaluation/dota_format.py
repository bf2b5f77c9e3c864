"""Turned boxes in DOTA's own forms: merged from tiles, and as the server of Task 1 takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from itpn_ray.models.rotated.boxes import corners_of, from_corners
from itpn_ray.models.rotated.overlap import rotated_nms

if TYPE_CHECKING:
    from itpn_ray.models.detection.base import Detections

MERGE_IOU = 0.1
"""IoU from which boxes of neighbouring tiles are one: as in mmrotate's test of DOTA."""


@dataclass(frozen=True, kw_only=True)
class WholeImage:
    """What was found in an image.

    Attributes:
        path: of the image.
        found: turned boxes (n, 5) float64 in its pixels.
    """

    path: str
    found: Detections


def in_tile(detections: Detections, size: Tensor, original: Tensor) -> Detections:
    """Detections in a view of a whole tile, given in pixels of the tile: on the CPU, in float64.

    Args:
        detections: turned boxes in pixels of the view.
        size: (2,) height and width of the view's valid part.
        original: (2,) height and width of the stored tile.
    """
    scale = (original.double() / size.double()).flip(0).cpu()  # x, y
    # As corners, for unequal scales make no rectangle of a turned box.
    corners = corners_of(detections.boxes.double().cpu()) * scale
    return replace(
        detections,
        boxes=from_corners(corners),
        scores=detections.scores.float().cpu(),
        labels=detections.labels.cpu(),
    )


def merge_tiles(parts: Sequence[tuple[tuple[int, int], Detections]]) -> Detections:
    """What was found in the tiles of an image, each object once, the surest first.

    Args:
        parts: origin (x, y) of each tile, and what was found in it, in its own pixels.
    """
    shifted = [
        # Only moved: sides and angles stay as they are.
        torch.cat([found.boxes[:, :2] + found.boxes.new_tensor(origin), found.boxes[:, 2:]], dim=1)
        for origin, found in parts
    ]
    boxes = torch.cat(shifted)
    scores = torch.cat([found.scores for _, found in parts])
    labels = torch.cat([found.labels for _, found in parts])
    kept = rotated_nms(boxes, scores, labels, MERGE_IOU)
    first = parts[0][1]
    return replace(first, boxes=boxes[kept], scores=scores[kept], labels=labels[kept])


def task1_lines(image: WholeImage, classes: Sequence[str]) -> dict[str, str]:
    """File name -> lines of an image in it; every class has a file, also without a line.

    A line is ``NAME SCORE x1 y1 x2 y2 x3 y3 x4 y4``.
    """
    name = PurePosixPath(image.path).stem
    lines: dict[str, list[str]] = {task1_file(label): [] for label in classes}
    found = image.found
    rows = zip(
        found.labels.tolist(),
        found.scores.tolist(),
        corners_of(found.boxes).flatten(1).tolist(),
        strict=True,
    )
    for label, score, corners in rows:
        places = " ".join(f"{value:.2f}" for value in corners)
        lines[task1_file(classes[label])].append(f"{name} {score:.6f} {places}\n")
    return {file: "".join(part) for file, part in lines.items()}


def task1_file(name: str) -> str:
    """The file of a class."""
    # A slash would make a folder of it.
    return f"Task1_{name.replace('/', '_')}.txt"


def write_task1(images: Iterable[WholeImage], classes: Sequence[str], folder: Path) -> None:
    """Write the files that DOTA's server of Task 1 takes, one a class."""
    folder.mkdir(parents=True, exist_ok=True)
    files: Mapping[str, list[str]] = {task1_file(name): [] for name in classes}
    for image in images:
        for file, lines in task1_lines(image, classes).items():
            files[file].append(lines)
    for file, parts in files.items():
        (folder / file).write_text("".join(parts))
