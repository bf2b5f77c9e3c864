"""What a detector says of images of any sizes, as plain data and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from itpn_ray.data.loading.image_folder import Answer, FolderImage
from itpn_ray.data.transforms.detection_views import padded_sides, whole_view
from itpn_ray.data.transforms.on_device import normalise_views
from itpn_ray.evaluation.coco_format import result_entries
from itpn_ray.evaluation.draw_detections import Scene, draw_image
from itpn_ray.evaluation.drawing import jpeg
from itpn_ray.evaluation.pasting import in_image
from itpn_ray.models.detection.base import Detections, Detector
from itpn_ray.tasks.trained import PredictionPlace


class DetectionPredictor:
    """The objects in an image, as COCO's results have them.

    Args:
        model: on its device, in eval mode.
        categories: COCO's ``categories``, in the order of the labels.
        place: the device, how images are drawn, and which detections are left out.
    """

    def __init__(
        self, model: Detector, categories: Sequence[Mapping[str, Any]], place: PredictionPlace
    ) -> None:
        self._model = model
        self._classes = [category["name"] for category in categories]
        self._class_ids = [category["id"] for category in categories]
        self._view = model.view
        self._min_score = place.min_score
        self._place = place
        self._drawing = place.drawing

    @torch.no_grad()
    def __call__(self, source_images: Sequence[FolderImage]) -> list[Answer]:
        """Entries of a results file, numbered by the image."""
        images, sizes = batch_of([self._seen(one.pixels) for one in source_images])
        images, sizes = images.to(self._place.device), sizes.to(self._place.device)
        with self._place.autocast():
            found = self._model.detect(normalise_views(images, sizes), sizes)
        return [self._answer(*row) for row in zip(source_images, found, sizes, strict=True)]

    def _seen(self, pixels: Tensor) -> Tensor:
        return whole_view(pixels.shape[2], pixels.shape[1], *self._view).image(pixels)

    def _answer(self, source_image: FolderImage, found: Detections, size: Tensor) -> Answer:
        pixels = source_image.pixels
        height, width = pixels.shape[1:]
        # Found in the view; what is reported counts in pixels of the file.
        found = surest(in_image(found, size, torch.tensor([height, width])), self._min_score)
        entries = result_entries(found, source_image.number, (height, width), self._class_ids)
        if not self._drawing.side:
            return Answer(entries=entries)
        scene = Scene(image=pixels, found=found)
        side = self._drawing.side_of(pixels)
        image = draw_image(scene, self._classes, side, min_score=self._drawing.min_score)
        return Answer(entries=entries, drawn=jpeg(image))


def batch_of(views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Views (3, h, w) in one batch, uint8 (B, 3, H, W), and their sizes (B, 2)."""
    sizes = torch.tensor([view.shape[1:] for view in views])
    images = torch.zeros(len(views), 3, *padded_sides(sizes.numpy()), dtype=torch.uint8)
    for image, view in zip(images, views, strict=True):
        image[:, : view.shape[1], : view.shape[2]] = view
    return images, sizes


def surest(found: Detections, min_score: float) -> Detections:
    """The detections from a score on."""
    chosen = found.scores >= min_score
    return replace(
        found,
        boxes=found.boxes[chosen],
        scores=found.scores[chosen],
        labels=found.labels[chosen],
        masks=None if found.masks is None else found.masks[chosen],
    )
