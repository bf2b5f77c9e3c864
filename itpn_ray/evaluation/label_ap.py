"""Average precision of several labels an image: how well a class's images are ranked first.

Of a class, images are ranked by score. AP = Σ (R_n - R_{n-1}) P_n over the distinct scores, of
which P_n and R_n are precision and recall of all images that score at least that much: images of
equal score enter together, so their order does not matter, and a class's AP is the fraction of its
images where all scores are equal. mAP is the mean over the classes that some image shows.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itpn_ray.evaluation.rank_zero import on_rank_zero

Part = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]
"""Ids (N,), logits (N, C) and what is shown (N, C) of some images."""


@dataclass(frozen=True, kw_only=True)
class LabelMetrics:
    """What an evaluation found.

    Attributes:
        metrics: ``map``; ``f1`` of all decisions at a score of 0.5; ``loss``, the mean binary
            cross-entropy, nats; ``non_finite``, only where there were any: how many images had
            logits that are not finite. Those count as scores below all others, and not in the loss.
        per_class: a row a class: ``ap``, None where no image shows it; ``recall`` and ``precision``
            at a score of 0.5, 0 where there is nothing below the line; ``name``; ``count`` of
            images that show it.
        images: how many were evaluated.
    """

    metrics: dict[str, float]
    per_class: list[dict[str, object]]
    images: int


class LabelAP:
    """Collects the scores of this worker's images, and evaluates those of all workers.

    Memory on rank 0: 5 bytes for each class of each image.

    Args:
        classes: names of the classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self._parts: list[Part] = []

    def add(self, ids: Tensor, logits: Tensor, shown: Tensor) -> None:
        """Add one batch.

        Args:
            ids: (B,) int64, rows in the split.
            logits: (B, C) float, any device.
            shown: (B, C), not 0 where an image shows the class.
        """
        part = ids.cpu().numpy(), logits.float().cpu().numpy(), (shown != 0).cpu().numpy()
        self._parts.append(part)

    def compute(self) -> LabelMetrics:
        """Evaluate the images of all workers, each of which must call this.

        The same to the last bit for any number of workers: images are put in order first.
        """
        return on_rank_zero(_joined(len(self.classes), self._parts), self._evaluate)

    def _evaluate(self, parts: list[Part]) -> LabelMetrics:
        classes = range(len(self.classes))
        ids, logits, shown = _joined(len(classes), parts)
        order = np.argsort(ids)
        logits, shown = logits[order], shown[order]
        finite = np.asarray(np.isfinite(logits).all(axis=1))  # (N,)
        scores = np.where(finite[:, None], logits, -np.inf)
        precisions = [average_precision(scores[:, label], shown[:, label]) for label in classes]
        known = [one for one in precisions if one is not None]
        taken = np.greater(scores, 0)  # a score of 0.5 is a logit of 0
        hits, support, found = (taken & shown).sum(0), shown.sum(0), taken.sum(0)  # (C,)
        metrics = {
            "map": float(np.mean(known)) if known else 0.0,
            "f1": float(2 * hits.sum() / max(support.sum() + found.sum(), 1)),
            "loss": _loss(logits[finite], shown[finite]),
            **({"non_finite": float((~finite).sum())} if not finite.all() else {}),
        }
        table = {
            "ap": precisions,
            "recall": (hits / np.maximum(support, 1)).tolist(),
            "precision": (hits / np.maximum(found, 1)).tolist(),
            "name": self.classes,
            "count": support.tolist(),
        }
        rows = [{name: column[label] for name, column in table.items()} for label in classes]
        return LabelMetrics(metrics=metrics, per_class=rows, images=len(ids))


def average_precision(scores: NDArray[np.floating[Any]], shown: NDArray[np.bool_]) -> float | None:
    """AP of one class, in [0, 1]; None where no image shows it.

    Args:
        scores: (N,), higher is surer.
        shown: (N,) whether each image shows the class.
    """
    positives = int(shown.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    ranked, hit = scores[order], shown[order]
    # The last image of each distinct score: what scores at least that much ends there.
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    hits = np.cumsum(hit)[last]
    return float((np.diff(hits, prepend=0) * (hits / (last + 1))).sum() / positives)


def _joined(classes: int, parts: Sequence[Part]) -> Part:
    """All parts as one; a worker may have none."""
    shape = 0, classes
    nothing: Part = np.empty(0, np.int64), np.empty(shape, np.float32), np.empty(shape, np.bool_)
    ids, logits, shown = zip(nothing, *parts, strict=True)
    return np.concatenate(ids), np.concatenate(logits), np.concatenate(shown)


def _loss(logits: NDArray[np.float32], shown: NDArray[np.bool_]) -> float:
    """Mean binary cross-entropy over images and classes; 0 where there is no image."""
    if not logits.size:
        return 0.0
    terms = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits).double(), torch.from_numpy(shown).double(), reduction="none"
    )
    return float(terms.mean())
