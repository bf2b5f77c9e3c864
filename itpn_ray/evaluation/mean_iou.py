"""Intersection over union of classes of pixels, by both usual rules.

Over K classes, from the numbers of pixels of each true class taken for each class; pixels that the
truth ignores count nowhere. ``miou`` is the mean over the classes that are in the truth or in the
answers (mmsegmentation's), ``miou_all`` over all K, where a class without pixels counts 0
(sceneparsing's, of ADE20K's authors). The two differ where a class occurs nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        self._pixels = torch.zeros(count, count, dtype=torch.int64, device=device)

    def add(self, found: Tensor, truth: Tensor) -> None:
        """Count an image.

        Args:
            found: (H, W) integers, classes.
            truth: (H, W) integers, classes or -1 where a pixel is ignored.
        """
        count = len(self.classes)
        labelled = truth >= 0
        pairs = truth[labelled].long() * count + found[labelled].long()
        self._pixels += torch.bincount(pairs, minlength=count**2).view(count, count)

    def compute(self, reduce: Reduce) -> MeanIoUFigures:
        """The metrics over all workers; exact, for whole numbers are summed."""
        pixels = reduce(self._pixels.clone()).cpu().double()  # true class, answer
        right, true, answers = pixels.diag(), pixels.sum(1), pixels.sum(0)
        either = true + answers - right
        iou, accuracy = right / either, right / true  # nan where there are no such pixels
        metrics = {
            "miou": iou.nanmean().item(),
            "macc": accuracy.nanmean().item(),
            "aacc": (right.sum() / true.sum()).item(),
            "miou_all": iou.nan_to_num(0.0).mean().item(),
        }
        rows = zip(self.classes, iou.tolist(), accuracy.tolist(), true.long().tolist(), strict=True)
        per_class = [
            {"iou": _number(of), "acc": _number(acc), "name": name, "count": count}
            for name, of, acc, count in rows
        ]
        return MeanIoUFigures(metrics=metrics, per_class=per_class)


def _number(value: float) -> float | None:
    """A figure, or None where there is none, as JSON has it."""
    return None if value != value else value
