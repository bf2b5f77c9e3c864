"""Intersection over union of classes of pixels, by both usual rules.

Over K classes, from the numbers of pixels of each true class taken for each class; pixels that the
truth ignores count nowhere. ``miou`` is the mean over the classes that are in the truth or in the
answers (mmsegmentation's), ``miou_all`` over all K, where a class without pixels counts 0
(sceneparsing's, of ADE20K's authors). The two differ where a class occurs nowhere.

``boundary_iou`` is ``miou`` of boundaries alone: of a class's pixels in the truth, and of those in
the answers, only such as lie within 2 % of the image's diagonal of another class or of the border
(Cheng et al., "Boundary IoU", CVPR 2021, 5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BOUNDARY = 0.02
"""Width of a boundary, in diagonals of the image."""

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class MeanIoUFigures:
    """What was found: metrics by name, and a row for each class."""

    metrics: dict[str, float]
    per_class: list[dict[str, Any]]


class MeanIoU:
    """Counts pixels, image by image.

    Args:
        classes: names of the classes.
        device: where masks are.
    """

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self.classes = classes
        count = len(classes)
        # A row a true class; then of boundaries those of both, of the truth, of the answers.
        self._pixels = torch.zeros(count + 3, count, dtype=torch.int64, device=device)

    def add(self, found: Tensor, truth: Tensor) -> None:
        """Count an image.

        Args:
            found: (H, W) integers, classes.
            truth: (H, W) integers, classes or -1 where a pixel is ignored.
        """
        count = len(self.classes)
        labelled = truth >= 0
        # True class and answer as one number, so that one bincount counts all pairs.
        pairs = truth[labelled].long() * count + found[labelled].long()
        self._pixels[:count] += torch.bincount(pairs, minlength=count**2).view(count, count)
        # Ignored among the answers too: a boundary there would tell nothing.
        answers = torch.where(labelled, found, -1)
        true_edge, edge = boundary(truth) & labelled, boundary(answers) & labelled
        both = true_edge & edge & (truth == answers)
        for row, (mask, where) in enumerate(((truth, both), (truth, true_edge), (answers, edge))):
            self._pixels[count + row] += torch.bincount(mask[where].long(), minlength=count)

    def compute(self, reduce: Reduce) -> MeanIoUFigures:
        """The metrics over all workers; exact, for whole numbers are summed."""
        counts = reduce(self._pixels.clone()).cpu().double()
        pixels, edges = counts[:-3], counts[-3:]  # (true class, answer)
        right, true, answers = pixels.diag(), pixels.sum(1), pixels.sum(0)
        either = true + answers - right
        iou, accuracy = right / either, right / true  # nan where there are no such pixels
        metrics = {
            "miou": iou.nanmean().item(),
            "macc": accuracy.nanmean().item(),
            "aacc": (right.sum() / true.sum()).item(),
            "miou_all": iou.nan_to_num(0.0).mean().item(),
            "boundary_iou": (edges[0] / (edges[1] + edges[2] - edges[0])).nanmean().item(),
        }
        rows = zip(self.classes, iou.tolist(), accuracy.tolist(), true.long().tolist(), strict=True)
        per_class = [
            {"iou": _number(of), "acc": _number(acc), "name": name, "count": count}
            for name, of, acc, count in rows
        ]
        return MeanIoUFigures(metrics=metrics, per_class=per_class)


def boundary(mask: Tensor) -> Tensor:
    """Where another class or the border of the image is near, (H, W) bool; see `BOUNDARY`.

    Args:
        mask: (H, W) integers from -1.
    """
    height, width = mask.shape
    reach = max(1, round(BOUNDARY * (height**2 + width**2) ** 0.5))
    # A border of no class, so that what lies at the image's own border differs from it.
    framed = F.pad(mask[None].float(), (reach,) * 4, value=-2.0)

    def largest(x: Tensor) -> Tensor:
        # Rows, then columns: the largest in a square in two passes of its side.
        return F.max_pool2d(F.max_pool2d(x, (2 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)

    return (largest(framed) != -largest(-framed))[0]


def _number(value: float) -> float | None:
    """A figure, or None where there is none, as JSON has it."""
    return None if value != value else value
