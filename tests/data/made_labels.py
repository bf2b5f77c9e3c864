"""Prepared images with several labels each, of colours that a small network can learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from itpn_ray.data.prepare.driver import prepare
from tests.data.made import jpeg
from tests.data.made_files import config

COLOURS = ("blue", "green", "red")
"""Classes, in the order of their labels; channel 2 - n of an image is bright where it shows n."""


def shown_by(number: int) -> list[str]:
    """The labels of an image: all eight combinations in turn, none among them."""
    return [name for bit, name in enumerate(COLOURS) if number >> bit & 1]


def write_labelled(root: Path, count: int, side: int = 32) -> list[tuple[str, list[str]]]:
    """Write images that have the channels of their labels bright; name and labels of each."""
    root.mkdir(parents=True, exist_ok=True)
    written = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 60, (side, side, 3), dtype=np.uint8)
        for bit in range(3):
            if number >> bit & 1:
                pixels[..., 2 - bit] += 180
        (root / f"{number:03d}.jpg").write_bytes(jpeg(Image.fromarray(pixels)))
        written.append((f"{number:03d}.jpg", shown_by(number)))
    return written


def write_multilabel(folder: Path, train: int, val: int) -> str:
    """A prepared data set with these numbers of images; returns its path."""
    rows = write_labelled(folder / "raw", train + val)
    lines = [
        f"{name},{' '.join(labels)},{'train' if row < train else 'val'}"
        for row, (name, labels) in enumerate(rows)
    ]
    source = folder / "raw/list.csv"
    source.write_text("\n".join(["path,labels,split", *lines]))
    prepare(config(source, folder / "shards", label_separator=" "))
    return str(folder / "shards")
