"""What a classifier says of images of any sizes, as plain data and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from itpn_ray.data.loading.decode import centre_crop
from itpn_ray.data.loading.image_folder import Answer, FolderImage
from itpn_ray.data.transforms.on_device import normalise
from itpn_ray.evaluation.draw_classes import draw_classes
from itpn_ray.evaluation.drawing import jpeg
from itpn_ray.models import Classifier
from itpn_ray.tasks.trained import PredictionPlace

TOP = 5
# Longer images are cut to this ratio: a line of pixels would grow to the crop's height.
_LONGEST = 8


class ClassPredictor:
    """The five classes that an image most likely shows, by its central crop.

    Args:
        model: on its device, in eval mode.
        classes: their names.
        place: the device, and how images are drawn.
    """

    def __init__(self, model: Classifier, classes: Sequence[str], place: PredictionPlace) -> None:
        self._model = model
        self._classes = classes
        self._place = place
        self._drawing = place.drawing

    @torch.no_grad()
    def __call__(self, source_images: Sequence[FolderImage]) -> list[Answer]:
        """An entry an image: ``file_name``, and ``top``, a list of class, label and score."""
        logits = logits_of(self._model, source_images, self._place)
        scores, labels = logits.softmax(1).cpu().topk(min(TOP, len(self._classes)))
        rows = zip(source_images, scores.tolist(), labels.tolist(), strict=True)
        return [self._answer(*row) for row in rows]

    def _answer(self, image: FolderImage, scores: Sequence[float], labels: Sequence[int]) -> Answer:
        found = [(self._classes[label], score) for label, score in zip(labels, scores, strict=True)]
        top = [
            {"class": name, "label": label, "score": round(score, 6)}
            for (name, score), label in zip(found, labels, strict=True)
        ]
        entry = {"file_name": image.path, "top": top}
        if not self._drawing.side:
            return Answer(entries=[entry])
        side = self._drawing.side_of(image.pixels)
        return Answer(entries=[entry], drawn=jpeg(draw_classes(image.pixels, found, side)))


def logits_of(
    model: Classifier, source_images: Sequence[FolderImage], place: PredictionPlace
) -> Tensor:
    """Logits (B, classes) float32 of the images' central crops."""
    size, share = model.config.trunk.image_size, model.crop_fraction
    crops = [centre_crop(shortened(one.pixels), size, share) for one in source_images]
    images = torch.stack(crops).to(place.device)  # (B, 3, S, S)
    with place.autocast():
        logits: Tensor = model(normalise(images))
    return logits.float()


def shortened(image: Tensor) -> Tensor:
    """The middle of an image (3, H, W) that is very long or very high."""
    _, height, width = image.shape
    most = _LONGEST * min(height, width)
    top, left = max(0, (height - most) // 2), max(0, (width - most) // 2)
    return image[:, top : top + most, left : left + most]
