"""Makes the photographs that the package carries, from the small clothing dataset (CC0).

Of each of five of its ten kinds of clothes the first 100 training images and the first 40 others,
by name, are shrunk until their shorter side has 144 pixels. Source:
https://github.com/alexeygrigorev/clothing-dataset-small, commit 1196151.

Command: python benchmarks/embed_photographs.py clothing-dataset-small
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

from PIL import Image

from itpn_ray.data.photographs import ARCHIVE

SIDE = 144
"""Shorter side, pixels: enough for crops of 128."""
QUALITY = 80
CLASSES = ("dress", "pants", "shoes", "shorts", "t-shirt")
"""Few, so that a minute of training has a hundred images of each to learn from."""
COUNTS = {"train": 100, "val": 40}
"""Images of each class."""


def of_split(source: Path, split: str) -> dict[str, list[Path]]:
    """Images of each class; the validation images are those of the source's two other splits."""
    folders = ["train"] if split == "train" else ["validation", "val", "test"]
    return {
        name: sorted(path for one in folders for path in (source / one / name).glob("*.jpg"))
        for name in CLASSES
    }


def shrunk(path: Path) -> bytes:
    """The image as a JPEG whose shorter side has `SIDE` pixels."""
    image = Image.open(path).convert("RGB")
    scale = SIDE / min(image.size)
    width, height = (round(scale * side) for side in image.size)
    out = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    with tarfile.open(ARCHIVE, "w") as tar:
        for split, count in COUNTS.items():
            for name, paths in of_split(source, split).items():
                for number, path in enumerate(paths[:count]):
                    content = shrunk(path)
                    entry = tarfile.TarInfo(f"{split}/{name}/{number:03d}.jpg")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    main()
