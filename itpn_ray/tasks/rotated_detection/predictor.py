"""What a detector says of the turned things in images of any size, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from itpn_ray.data.loading.image_folder import Answer, FolderImage
from itpn_ray.data.prepare.tiling import tile_places
from itpn_ray.data.transforms.on_device import normalise_views
from itpn_ray.data.transforms.turned_views import whole_tile
from itpn_ray.evaluation.dota_format import WholeImage, in_tile, merge_tiles, task1_lines
from itpn_ray.evaluation.draw_detections import Scene, draw_image
from itpn_ray.evaluation.drawing import jpeg
from itpn_ray.models.detection.base import Detections
from itpn_ray.models.rotated.boxes import corners_of, hulls_of
from itpn_ray.models.rotated.network import RotatedRcnn
from itpn_ray.tasks.detection.predictor import batch_of, surest
from itpn_ray.tasks.trained import PredictionPlace

Placed = tuple[tuple[int, int], Detections]
"""Origin of a tile, and what was found in it, in its own pixels."""
_TILES = 4
"""Tiles of an image that the network sees at once, however large the image is."""


class RotatedPredictor:
    """The objects in an image, merged from its tiles.

    Args:
        model: on its device, in eval mode; it tells how images are cut.
        classes: names, in the order of the labels.
        place: the device, how images are drawn, and which detections are left out.
    """

    def __init__(self, model: RotatedRcnn, classes: Sequence[str], place: PredictionPlace) -> None:
        self._model = model
        self._classes = classes
        self._place = place

    def __call__(self, source_images: Sequence[FolderImage]) -> list[Answer]:
        """Of each object the numbers of image and class, hull, corners and score."""
        return [self._answer(image) for image in source_images]

    def _answer(self, image: FolderImage) -> Answer:
        found = surest(merge_tiles(list(self._find(image.pixels))), self._place.min_score)
        return Answer(
            entries=list(_entries(found, image.number)),
            drawn=self._drawn(image.pixels, found),
            lines=task1_lines(WholeImage(path=image.path, found=found), self._classes),
        )

    @torch.no_grad()
    def _find(self, pixels: Tensor) -> Iterator[Placed]:
        """What is found in each tile of an image (3, H, W)."""
        height, width = pixels.shape[1:]
        side, gap = self._model.tiles
        places = tile_places(width, height, side, gap)
        # Side 0: images are not cut, and the one tile is the whole image.
        side = side or max(height, width)
        for start in range(0, len(places), _TILES):
            chosen = places[start : start + _TILES]
            tiles = [pixels[:, y : y + side, x : x + side] for x, y in chosen]
            images, sizes = batch_of([self._seen(tile) for tile in tiles])
            images, sizes = images.to(self._place.device), sizes.to(self._place.device)
            with self._place.autocast():
                seen = self._model.detect(normalise_views(images, sizes), sizes)
            for place, tile, found, size in zip(chosen, tiles, seen, sizes, strict=True):
                yield place, in_tile(found, size, torch.tensor(tile.shape[1:]))

    def _seen(self, tile: Tensor) -> Tensor:
        return whole_tile(tile.shape[2], tile.shape[1], *self._model.view).image(tile)

    def _drawn(self, pixels: Tensor, found: Detections) -> bytes:
        drawing = self._place.drawing
        if not drawing.side:
            return b""
        scene = Scene(image=pixels, found=found)
        side, score = drawing.side_of(pixels), drawing.min_score
        return jpeg(draw_image(scene, self._classes, side, min_score=score))


def _entries(found: Detections, number: int) -> Iterator[dict[str, Any]]:
    """The detections as a COCO results file has them, with their corners x, y, x, y, ..."""
    rows = zip(
        hulls_of(found.boxes).tolist(),
        corners_of(found.boxes).flatten(1).tolist(),
        found.scores.tolist(),
        found.labels.tolist(),
        strict=True,
    )
    for (x1, y1, x2, y2), corners, score, label in rows:
        yield {
            "image_id": number,
            # COCO counts categories from 1.
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": [corners],
            "score": score,
        }
