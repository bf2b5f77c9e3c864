"""What a segmenter says of images of any sizes, as plain data, as masks and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from itpn_ray.data.annotations.class_masks import class_pixels, png
from itpn_ray.data.annotations.run_lengths import encode, to_text
from itpn_ray.data.loading.image_folder import Answer, FolderImage
from itpn_ray.evaluation.draw_masks import draw_mask
from itpn_ray.evaluation.drawing import jpeg
from itpn_ray.models.segmentation.base import Segmenter
from itpn_ray.tasks.trained import PredictionPlace


class MaskPredictor:
    """The classes in an image with their shares of its pixels, and its mask.

    Args:
        model: on its device, in eval mode.
        classes: their names.
        place: the device, and how images are drawn.
    """

    def __init__(self, model: Segmenter, classes: Sequence[str], place: PredictionPlace) -> None:
        self._model = model
        self._classes = classes
        self._place = place

    @torch.no_grad()
    def __call__(self, source_images: Sequence[FolderImage]) -> list[Answer]:
        """An entry an image: ``file_name``, and ``classes``, the largest first.

        Each has its share of the image and its mask, run lengths in COCO's text form.
        """
        return [self._answer(one) for one in source_images]

    def _answer(self, one: FolderImage) -> Answer:
        image, size = self._model.preprocess(one.pixels)
        height, width = one.pixels.shape[1:]
        with self._place.autocast():
            (mask,) = self._model.segment(image.to(self._place.device), size, [(height, width)])
        mask = mask.cpu()
        pixels = class_pixels(mask.numpy())
        found = [
            {
                "class": self._classes[label],
                "label": label,
                "share": round(n / mask.numel(), 6),
                "segmentation": {
                    "size": [height, width],
                    "counts": to_text(encode(mask.numpy() == label)),
                },
            }
            for label, n in sorted(pixels.items(), key=lambda item: -item[1])
        ]
        # The class numbers themselves; in shards they are shifted by one.
        answer = Answer(entries=[{"file_name": one.path, "classes": found}], mask=png(mask.numpy()))
        drawing = self._place.drawing
        if not drawing.side:
            return answer
        drawn = draw_mask(one.pixels, mask, self._classes, drawing.side_of(one.pixels))
        return Answer(entries=answer.entries, mask=answer.mask, drawn=jpeg(drawn))
