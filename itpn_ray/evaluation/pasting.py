"""From a detector's view back to the stored image: boxes, and masks as COCO's run lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itpn_ray.evaluation.precision import whole_float32

if TYPE_CHECKING:
    from itpn_ray.models.detection.base import Detections

THRESHOLD = 0.5  # probability from which a pixel belongs to a mask


def in_image(detections: Detections, size: Tensor, original: Tensor) -> Detections:
    """Detections in a view of the whole image, given in pixels of the image.

    Args:
        detections: boxes in pixels of the view.
        size: (2,) height and width of the view's valid part.
        original: (2,) height and width of the stored image.

    Returns:
        The same on the CPU, in float32, with boxes of the stored image.
    """
    height, width = (original.double() / size.double()).cpu().tolist()
    # (4,): x and y of both corners.
    scale = torch.tensor([width, height, width, height])
    masks = detections.masks
    return replace(
        detections,
        boxes=detections.boxes.float().cpu() * scale,
        scores=detections.scores.float().cpu(),
        labels=detections.labels.cpu(),
        masks=None if masks is None else masks.float().cpu(),
    )


def paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Spread each mask over its box, one image-sized mask at a time.

    Values between a mask's cells are linear, and zero outside of it; a pixel counts by its centre.

    Args:
        masks: (n, S, S) float32 probabilities, on the CPU.
        boxes: (n, 4) float32 x1, y1, x2, y2, pixels of the image.
        height: of the image, pixels.
        width: likewise.

    Yields:
        (height, width) of 0 and 1, columns first in memory as run lengths want it.
    """
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        # Column by column, as COCO's encoder reads masks.
        pasted = np.zeros((height, width), dtype=np.uint8, order="F")
        top, rows = _weights(y1, y2, height, len(mask))  # (h, S)
        left, columns = _weights(x1, x2, width, len(mask))  # (w, S)
        with whole_float32(mask.device):
            # (h, S) @ (S, S) @ (S, w): rows and columns are interpolated one after the other.
            inside = (rows @ mask @ columns.T >= THRESHOLD).numpy()  # (h, w)
        pasted[top : top + len(rows), left : left + len(columns)] = inside
        yield pasted


def _weights(low: float, high: float, limit: int, cells: int) -> tuple[int, Tensor]:
    """The first pixel whose centre lies in low..high, and (pixels, cells) weights of the cells."""
    first = max(0, int(np.ceil(low - 0.5)))
    last = min(limit - 1, int(np.floor(high - 0.5)))
    # Pixel centres lie at halves; so do those of the mask's cells, below.
    centres = torch.arange(first, max(first, last + 1)) + 0.5
    # Not by 0, where a box is empty.
    cell = (centres - low) * (cells / max(high - low, 1e-6)) - 0.5
    # The hat function of linear interpolation; beyond a cell's neighbours it is 0.
    return first, (1 - (cell[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def encode(pasted: NDArray[np.uint8]) -> dict[str, Any]:
    """A mask (height, width) of 0 and 1 as COCO's results hold it: ``size`` and ``counts``."""
    from hotcoco import mask as coco

    found = coco.encode(pasted)
    return {"size": list(pasted.shape), "counts": found["counts"].decode("ascii")}
