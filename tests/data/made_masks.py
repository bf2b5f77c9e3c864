"""Raw data sets of images with masks, as the tests want them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.synthetic.layouts import generate
from tests.data.made import make_image

WIDTH, HEIGHT = 40, 30


def values(
    row: int, known: tuple[int, ...], size: tuple[int, int] = (HEIGHT, WIDTH)
) -> NDArray[np.uint8]:
    """A mask of vertical stripes that differ from row to row."""
    at = (np.arange(size[1]) // 5 + row) % len(known)
    return np.broadcast_to(np.array(known, np.uint8)[at], size).copy()


def write_pair(root: Path, image: str, mask: str, row: int, pixels: NDArray[np.uint8]) -> None:
    """An image and its mask, below the root."""
    for path in (root / image, root / mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    make_image(row, WIDTH, HEIGHT).save(root / image)
    Image.fromarray(pixels).save(root / mask)


def write_ade(root: Path, train: int = 4, val: int = 2, classes: int = 3) -> Path:
    """ADE20K's layout; the values of all masks go from 0 to the number of classes."""
    known = tuple(range(classes + 1))
    for split, count in (("training", train), ("validation", val)):
        for row in range(count):
            name = f"ADE_{split}_{row}"
            write_pair(
                root,
                f"images/{split}/{name}.jpg",
                f"annotations/{split}/{name}.png",
                row + 10 * len(split),  # no image is in both splits
                values(row, known),
            )
    lines = ["Idx\tRatio\tName", *(f"{n}\t0.1\tclass {n}" for n in known[1:])]
    (root / "objectInfo.txt").write_text("\n".join(lines))
    return root


def write_masked(folder: Path, train: int, val: int) -> str:
    """Drawn scenes with masks, prepared; their path."""
    raw, out = folder / "raw", folder / "data"
    generate(
        SynthesizeConfig(out=str(raw), layout="ade", train=train, val=val, side=64, num_workers=0)
    )
    prepare(PrepareConfig(source=str(raw), out=str(out), num_workers=0))
    return str(out)
