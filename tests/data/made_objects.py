"""Prepared data for detection, of images that the tests draw themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itpn_ray.data.prepare.config import SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.synthetic.layouts import generate
from tests.data.made_files import config


def write_scenes(folder: Path, **options: Any) -> str:
    """Draw scenes with boxes, outlines and crowds, and prepare them; returns the data's path."""
    sizes = {"train": 21, "val": 11, "side": 96, **options}
    images = SynthesizeConfig(out=str(folder / "raw"), layout="coco", num_workers=0, **sizes)
    prepare(config(generate(images), folder / "set"))
    return str(folder / "set")
