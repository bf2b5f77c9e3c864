"""Which labels a classifier gives images of any sizes, as plain data and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from itpn_ray.data.loading.image_folder import Answer, FolderImage
from itpn_ray.evaluation.draw_classes import draw_classes
from itpn_ray.evaluation.drawing import jpeg
from itpn_ray.models import Classifier
from itpn_ray.tasks.classification.predictor import logits_of
from itpn_ray.tasks.trained import PredictionPlace


class LabelPredictor:
    """All labels of an image that are sure enough, by its central crop.

    Args:
        model: on its device, in eval mode.
        classes: their names.
        place: the device, which scores are left out, and how images are drawn.
    """

    def __init__(self, model: Classifier, classes: Sequence[str], place: PredictionPlace) -> None:
        self._model = model
        self._classes = classes
        self._place = place

    @torch.no_grad()
    def __call__(self, source_images: Sequence[FolderImage]) -> list[Answer]:
        """An entry an image: ``file_name``, and ``labels``, a list of class, label and score."""
        scores = logits_of(self._model, source_images, self._place).sigmoid().cpu()
        # Surest first; of equal scores the lower label.
        ranked = scores.sort(dim=1, descending=True, stable=True)
        rows = zip(source_images, ranked.values.tolist(), ranked.indices.tolist(), strict=True)
        return [self._answer(*row) for row in rows]

    def _answer(self, image: FolderImage, scores: Sequence[float], labels: Sequence[int]) -> Answer:
        found = [
            {"class": self._classes[label], "label": label, "score": round(score, 6)}
            for score, label in zip(scores, labels, strict=True)
            if score >= self._place.min_score
        ]
        entry = {"file_name": image.path, "labels": found}
        drawing = self._place.drawing
        if not drawing.side:
            return Answer(entries=[entry])
        drawn = [
            (self._classes[label], score)
            for score, label in zip(scores, labels, strict=True)
            if score >= drawing.min_score
        ]
        side = drawing.side_of(image.pixels)
        return Answer(entries=[entry], drawn=jpeg(draw_classes(image.pixels, drawn, side)))
