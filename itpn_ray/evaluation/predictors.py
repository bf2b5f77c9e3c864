"""What a classifier or a detector says of images of any sizes, as plain data and drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from itpn_ray.data.loading.decode import centre_crop
from itpn_ray.data.loading.image_folder import Answer, FolderImage
from itpn_ray.data.transforms.detection_views import padded_sides, whole_view
from itpn_ray.data.transforms.on_device import normalise, normalise_views
from itpn_ray.evaluation.coco_format import result_entries
from itpn_ray.evaluation.draw_classes import draw_classes
from itpn_ray.evaluation.draw_detections import Scene, draw_image
from itpn_ray.evaluation.pasting import in_image
from itpn_ray.models import Classifier
from itpn_ray.models.detection.base import Detections, Detector

TOP = 5
_LEAST_SIDE = 256  # of a drawn image, so that names can be read
# Longer images are cut to this ratio: a line of pixels would grow to the crop's height.
_LONGEST = 8
_JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How images are drawn.

    Attributes:
        side: longest side, pixels; 0: not at all.
        min_score: detections below are not drawn.
    """

    side: int
    min_score: float = 0.0

    def side_of(self, image: Tensor) -> int:
        """Longest side of an image (3, H, W) as drawn: its own within limits."""
        return min(self.side, max(_LEAST_SIDE, *image.shape[1:]))


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A device, and the precision of computations on it."""

    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]]


class ClassPredictor:
    """The five classes that an image most likely shows, by its central crop.

    Args:
        model: on its device, in eval mode.
        classes: their names.
        placed: the device.
        drawing: how images are drawn.
    """

    def __init__(
        self, model: Classifier, classes: Sequence[str], placed: Placed, drawing: Drawing
    ) -> None:
        self._model = model
        self._classes = classes
        self._placed = placed
        self._drawing = drawing

    @torch.no_grad()
    def __call__(self, source_images: Sequence[FolderImage]) -> list[Answer]:
        """An entry an image: ``file_name``, and ``top``, a list of class, label and score."""
        size = self._model.config.trunk.image_size
        share = self._model.crop_fraction
        crops = [centre_crop(_shortened(one.pixels), size, share) for one in source_images]
        images = torch.stack(crops).to(self._placed.device)  # (B, 3, S, S)
        with self._placed.autocast():
            logits = self._model(normalise(images))
        scores, labels = logits.float().softmax(1).cpu().topk(min(TOP, len(self._classes)))
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
        return Answer(entries=[entry], drawn=_jpeg(draw_classes(image.pixels, found, side)))


class DetectionPredictor:
    """The objects in an image, as COCO's results have them.

    Args:
        model: on its device, in eval mode.
        categories: COCO's ``categories``, in the order of the labels.
        view: shorter and longest side of an image as the detector sees it, pixels.
        min_score: detections below are left out.
        placed: the device.
        drawing: how images are drawn.
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
    def __call__(self, source_images: Sequence[FolderImage]) -> list[Answer]:
        """Entries of a results file, numbered by the image."""
        images, sizes = self._batch([one.pixels for one in source_images])
        with self._placed.autocast():
            found = self._model.detect(normalise_views(images, sizes), sizes)
        return [self._answer(*row) for row in zip(source_images, found, sizes, strict=True)]

    def _batch(self, source_images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Views in one batch, uint8 (B, 3, H, W), and their sizes (B, 2)."""
        views = []
        for source_image in source_images:
            _, height, width = source_image.shape
            views.append(whole_view(width, height, *self._view).image(source_image))
        sizes = torch.tensor([view.shape[1:] for view in views])
        images = torch.zeros(len(views), 3, *padded_sides(sizes.numpy()), dtype=torch.uint8)
        for image, view in zip(images, views, strict=True):
            image[:, : view.shape[1], : view.shape[2]] = view
        return images.to(self._placed.device), sizes.to(self._placed.device)

    def _answer(self, source_image: FolderImage, found: Detections, size: Tensor) -> Answer:
        pixels = source_image.pixels
        height, width = pixels.shape[1:]
        found = _surest(in_image(found, size, torch.tensor([height, width])), self._min_score)
        entries = result_entries(found, source_image.number, (height, width), self._class_ids)
        if not self._drawing.side:
            return Answer(entries=entries)
        scene = Scene(image=pixels, found=found)
        side = self._drawing.side_of(pixels)
        image = draw_image(scene, self._classes, side, min_score=self._drawing.min_score)
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


def _shortened(image: Tensor) -> Tensor:
    """The middle of an image (3, H, W) that is very long or very high."""
    _, height, width = image.shape
    most = _LONGEST * min(height, width)
    top, left = max(0, (height - most) // 2), max(0, (width - most) // 2)
    return image[:, top : top + most, left : left + most]


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()
