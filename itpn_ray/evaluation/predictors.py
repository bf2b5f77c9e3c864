"""What a classifier or a detector says of pictures of any sizes, as plain data and drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from itpn_ray.data.loading.crop_loader import CENTRE
from itpn_ray.data.loading.decode import centre_crop
from itpn_ray.data.loading.detection_loader import padded_sides
from itpn_ray.data.loading.image_folder import Answer, FolderPicture
from itpn_ray.data.transforms.detection_views import whole_view
from itpn_ray.data.transforms.on_device import normalise, normalise_views
from itpn_ray.evaluation.coco_format import result_entries
from itpn_ray.evaluation.draw_classes import draw_classes
from itpn_ray.evaluation.draw_detections import Scene, draw_picture
from itpn_ray.evaluation.pasting import in_picture
from itpn_ray.models import Classifier
from itpn_ray.models.detection.base import Detections, Detector

TOP = 5
_LEAST_SIDE = 256  # of a drawn picture, so that names can be read
# Longer pictures are cut to this ratio: a line of pixels would grow to the crop's height.
_LONGEST = 8
_JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn.

    Attributes:
        side: longest side, pixels; 0: not at all.
        min_score: detections below are not drawn.
    """

    side: int
    min_score: float = 0.0

    def side_of(self, picture: Tensor) -> int:
        """Longest side of a picture (3, H, W) as drawn: its own within limits."""
        return min(self.side, max(_LEAST_SIDE, *picture.shape[1:]))


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A device, and the precision of computations on it."""

    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]]


class ClassPredictor:
    """The five classes that a picture most likely shows, by its central crop.

    Args:
        model: on its device, in eval mode.
        classes: their names.
        placed: the device.
        drawing: how pictures are drawn.
    """

    def __init__(
        self, model: Classifier, classes: Sequence[str], placed: Placed, drawing: Drawing
    ) -> None:
        self._model = model
        self._classes = classes
        self._placed = placed
        self._drawing = drawing

    @torch.no_grad()
    def __call__(self, pictures: Sequence[FolderPicture]) -> list[Answer]:
        """An entry a picture: ``file_name``, and ``top``, a list of class, label and score."""
        size = self._model.config.trunk.image_size
        crops = [centre_crop(_shortened(one.pixels), size, CENTRE) for one in pictures]
        images = torch.stack(crops).to(self._placed.device)  # (B, 3, S, S)
        with self._placed.autocast():
            logits = self._model(normalise(images))
        scores, labels = logits.float().softmax(1).cpu().topk(min(TOP, len(self._classes)))
        rows = zip(pictures, scores.tolist(), labels.tolist(), strict=True)
        return [self._answer(*row) for row in rows]

    def _answer(
        self, picture: FolderPicture, scores: Sequence[float], labels: Sequence[int]
    ) -> Answer:
        found = [(self._classes[label], score) for label, score in zip(labels, scores, strict=True)]
        top = [
            {"class": name, "label": label, "score": round(score, 6)}
            for (name, score), label in zip(found, labels, strict=True)
        ]
        entry = {"file_name": picture.path, "top": top}
        if not self._drawing.side:
            return Answer(entries=[entry])
        side = self._drawing.side_of(picture.pixels)
        return Answer(entries=[entry], drawn=_jpeg(draw_classes(picture.pixels, found, side)))


class DetectionPredictor:
    """The objects in a picture, as COCO's results have them.

    Args:
        model: on its device, in eval mode.
        categories: COCO's ``categories``, in the order of the labels.
        view: shorter and longest side of a picture as the detector sees it, pixels.
        min_score: detections below are left out.
        placed: the device.
        drawing: how pictures are drawn.
    """

    def __init__(
        self,
        model: Detector,
        categories: Sequence[Mapping[str, Any]],
        *,
        view: tuple[int, int],
        min_score: float,
        placed: Placed,
        drawing: Drawing,
    ) -> None:
        self._model = model
        self._classes = [category["name"] for category in categories]
        self._class_ids = [category["id"] for category in categories]
        self._view = view
        self._min_score = min_score
        self._placed = placed
        self._drawing = drawing

    @torch.no_grad()
    def __call__(self, pictures: Sequence[FolderPicture]) -> list[Answer]:
        """Entries of a results file, numbered by the picture."""
        images, sizes = self._batch([one.pixels for one in pictures])
        with self._placed.autocast():
            found = self._model.detect(normalise_views(images, sizes), sizes)
        return [self._answer(*row) for row in zip(pictures, found, sizes, strict=True)]

    def _batch(self, pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Views in one batch, uint8 (B, 3, H, W), and their sizes (B, 2)."""
        views = []
        for picture in pictures:
            _, height, width = picture.shape
            views.append(whole_view(width, height, *self._view).picture(picture))
        sizes = torch.tensor([view.shape[1:] for view in views])
        images = torch.zeros(len(views), 3, *padded_sides(sizes.numpy()), dtype=torch.uint8)
        for image, view in zip(images, views, strict=True):
            image[:, : view.shape[1], : view.shape[2]] = view
        return images.to(self._placed.device), sizes.to(self._placed.device)

    def _answer(self, picture: FolderPicture, found: Detections, size: Tensor) -> Answer:
        pixels = picture.pixels
        height, width = pixels.shape[1:]
        found = _surest(in_picture(found, size, torch.tensor([height, width])), self._min_score)
        entries = result_entries(found, picture.number, (height, width), self._class_ids)
        if not self._drawing.side:
            return Answer(entries=entries)
        scene = Scene(picture=pixels, found=found)
        side = self._drawing.side_of(pixels)
        image = draw_picture(scene, self._classes, side, min_score=self._drawing.min_score)
        return Answer(entries=entries, drawn=_jpeg(image))


def _surest(found: Detections, min_score: float) -> Detections:
    chosen = found.scores >= min_score
    return replace(
        found,
        boxes=found.boxes[chosen],
        scores=found.scores[chosen],
        labels=found.labels[chosen],
        masks=None if found.masks is None else found.masks[chosen],
    )


def _shortened(picture: Tensor) -> Tensor:
    """The middle of a picture (3, H, W) that is very long or very high."""
    _, height, width = picture.shape
    most = _LONGEST * min(height, width)
    top, left = max(0, (height - most) // 2), max(0, (width - most) // 2)
    return picture[:, top : top + most, left : left + most]


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()
