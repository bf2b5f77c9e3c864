"""Pixels that a detector sees, by what its batches are padded to.

Draws the training views of all images of an annotation file, in the order of training, and counts
the pixels of micro-batches of two: each padded to its own views, and all padded to the largest view
of a worker's share.

python benchmarks/padding.py instances_train2017.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from itpn_ray.data.config import DetectionAugmentConfig  # noqa: E402
from itpn_ray.data.transforms.detection_views import padded_sides, training_views  # noqa: E402
from itpn_ray.rng import permutation  # noqa: E402

MICRO, SHARES, VIEWS = 2, (2, 4, 8, 16, 64), 20_000


def view_sizes(path: str) -> NDArray[np.int64]:
    """Height and width of `VIEWS` training views, (VIEWS, 2), epoch after epoch."""
    images = json.loads(Path(path).read_text())["images"]
    stored = np.array([(image["width"], image["height"]) for image in images])
    sizes: list[tuple[int, int]] = []
    for epoch in range(-(-VIEWS // len(images))):
        rows = permutation(0, epoch, len(images))
        config = DetectionAugmentConfig()
        views = training_views(*stored[rows].T, rows, seed=0, epoch=epoch, config=config)
        sizes += [(view.out_height, view.out_width) for view in views]
    return np.array(sizes[:VIEWS], dtype=np.int64)


def padded_pixels(sizes: NDArray[np.int64], together: int) -> int:
    """Pixels where so many views after one another are padded to the largest of them."""
    groups = sizes[: len(sizes) // together * together].reshape(-1, together, 2)
    canvases = [padded_sides(group) for group in groups]
    return together * sum(height * width for height, width in canvases)


def main() -> None:
    """Count and print, as shares of the pixels of the views themselves."""
    sizes = view_sizes(sys.argv[1])
    seen = int(sizes.prod(1).sum())
    own = padded_pixels(sizes, MICRO)
    print(f"micro-batches of {MICRO}: {own / seen:.2f} of the views' pixels")
    for share in SHARES:
        whole = padded_pixels(sizes, share)
        print(f"share of {share}: {whole / seen:.2f}; {1 - own / whole:.0%} saved")


if __name__ == "__main__":
    main()
