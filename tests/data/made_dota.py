"""Raw data sets with turned boxes, in DOTA's layout, as the tests want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.synthetic.layouts import generate
from tests.data.made import make_image

WIDTH, HEIGHT = 200, 150
SHIP = "20 30 60 40 58 48 18 38 ship 0"
PLANE = "100 80 140 80 140 120 100 120 plane 1"
HEAD = ("imagesource:GoogleEarth", "gsd:0.146343590398")


def write_dota(
    root: Path, labels: Mapping[str, Sequence[str] | None], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Path:
    """Images ``split/name`` with these lines, under DOTA's head; None: without a label file."""
    for number, (place, lines) in enumerate(labels.items()):
        split, name = place.split("/")
        image = root / split / "images" / f"{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        make_image(number, *size).save(image)
        if lines is not None:
            path = root / split / "labelTxt" / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join([*HEAD, *lines]) + "\n")
    return root


def prepared(root: Path, out: Path, **settings: int) -> str:
    """The data set as shards, made in this process; their path."""
    prepare(PrepareConfig(source=str(root), out=str(out), num_workers=0, **settings))  # type: ignore[arg-type]
    return str(out)


def write_turned(folder: Path, train: int, val: int) -> str:
    """Drawn scenes with turned boxes, prepared in tiles of 96 pixels; their path."""
    raw = folder / "raw"
    layout = {"out": str(raw), "layout": "dota", "side": 128}
    generate(SynthesizeConfig(**layout, train=train, val=val, num_workers=0))  # type: ignore[arg-type]
    return prepared(raw, folder / "data", tile=96, tile_gap=32)
