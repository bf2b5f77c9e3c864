"""Top-k accuracy, per-class metrics and the confusion matrix, summed as the images stream by.

Every sum is added up over the ranks, so the metrics are exact however the images are split.

Shapes: B images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

KS = (1, 5)
_MOST_CONFUSED = 2000  # above this many classes the matrix would only cost memory


class TopK:
    """Streaming top-1 and top-5 accuracy.

    Images whose logits hold NaN or infinity count as wrong, and are counted apart.

    Args:
        num_classes: C; top-5 is left out where it would always be 1.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.ks = tuple(k for k in KS if k == 1 or k < num_classes)
        matrix = num_classes if num_classes <= _MOST_CONFUSED else 0
        lengths = {
            "count": 1,
            "non_finite": 1,
            "loss": 1,
            "correct": len(self.ks),
            "support": num_classes,
            "predicted": num_classes,
            "hits": num_classes,
            "confusion": matrix * matrix,
        }
        # Counts are whole numbers, which float64 holds exactly up to 2^53.
        self._packed = torch.zeros(sum(lengths.values()), dtype=torch.float64)
        self._lengths = lengths

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add one batch.

        Args:
            logits: (B, C) float, any device.
            labels: (B,) int64.
        """
        # The device is known with the first batch only.
        if self._packed.device != logits.device:
            self._packed = self._packed.to(logits.device)
        finite = logits.isfinite().all(1)
        logits = torch.where(finite[:, None], logits.float(), 0.0)
        # The rank is how many classes lie ahead of the right one: no sort, and exact ties.
        target = logits.gather(1, labels[:, None])  # (B, 1)
        order = torch.arange(self.num_classes, device=logits.device)
        # Of equal logits the lower class goes first, so that every device counts the same.
        ahead = (logits > target) | ((logits == target) & (order < labels[:, None]))
        rank = torch.where(finite, ahead.sum(1), self.num_classes)
        largest = logits == logits.amax(1, keepdim=True)
        best = torch.where(largest, order, self.num_classes).amin(1)
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")

        sums, counted = self._sums(), finite.double()
        sums["count"] += len(labels)
        sums["non_finite"] += (~finite).sum()
        sums["loss"] += (nll.double() * counted).sum()
        sums["correct"] += torch.stack([(rank < k).sum() for k in self.ks])
        sums["support"].index_add_(0, labels, torch.ones_like(counted))
        sums["predicted"].index_add_(0, best, counted)
        sums["hits"].index_add_(0, labels, (rank == 0).double())
        if len(sums["confusion"]):
            sums["confusion"].index_add_(0, labels * self.num_classes + best, counted)

    def reduce(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Add up over all workers: ``reduce`` sums a tensor over them and returns it."""
        self._packed = reduce(self._packed)

    def metrics(self) -> dict[str, float]:
        """The metrics over all images.

        Returns:
            ``top1`` and ``top5``: fractions in [0, 1]; ``loss``: mean negative log-likelihood,
            nats; ``mean_recall``: recall averaged over the classes that have images;
            ``non_finite``, only where there were any: how many images had no finite logits.
        """
        sums = self._sums()
        count, non_finite = float(sums["count"]), float(sums["non_finite"])
        present = sums["support"] > 0
        recall = (sums["hits"] / sums["support"].clamp(min=1))[present]
        accuracies = (sums["correct"] / max(count, 1)).tolist()
        return {
            **{f"top{k}": accuracy for k, accuracy in zip(self.ks, accuracies, strict=True)},
            # Images without a finite answer have no loss.
            "loss": float(sums["loss"]) / max(count - non_finite, 1),
            "mean_recall": float(recall.mean()) if len(recall) else 0.0,
            **({"non_finite": non_finite} if non_finite else {}),
        }

    @property
    def count(self) -> int:
        """Images counted."""
        return int(self._sums()["count"])

    def per_class(self, names: Sequence[str]) -> list[dict[str, object]]:
        """The per-class table, in class order; a ratio with nothing below its line is 0.

        Returns:
            One row a class: ``name``, ``count``, ``recall`` and ``precision`` in [0, 1].
        """
        sums = self._sums()
        rows = zip(
            names,
            sums["support"].tolist(),
            (sums["hits"] / sums["support"].clamp(min=1)).tolist(),
            # Of a class that was never answered the precision is 0.
            (sums["hits"] / sums["predicted"].clamp(min=1)).tolist(),
            strict=True,
        )
        return [
            {"name": name, "count": int(count), "recall": recall, "precision": precision}
            for name, count, recall, precision in rows
        ]

    @property
    def confusion(self) -> Tensor | None:
        """(C, C) int64 on the CPU, [label, predicted]; None above 2000 classes."""
        flat = self._sums()["confusion"]
        if not len(flat):
            return None
        # (C * C) -> (C, C)
        return flat.view(self.num_classes, self.num_classes).long().cpu()

    def _sums(self) -> dict[str, Tensor]:
        """Views into the packed sums, by name."""
        parts = self._packed.split(list(self._lengths.values()))
        return dict(zip(self._lengths, parts, strict=True))
