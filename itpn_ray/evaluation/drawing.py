"""How predictions are drawn, whatever they are."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

_LEAST_SIDE = 256  # of a drawn image, so that names can be read
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
        # Never larger than asked for, nor enlarged beyond what can be read.
        return min(self.side, max(_LEAST_SIDE, *image.shape[1:]))


def jpeg(image: Image.Image) -> bytes:
    """The image as the bytes of a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()
