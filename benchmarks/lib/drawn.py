"""Small drawn pictures, prepared: data for benchmarks of the training loop."""

from __future__ import annotations

from pathlib import Path

from itpn_ray.data.prepare.config import PicturesConfig, PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.synthetic.layouts import generate


def prepared_pictures(folder: Path, train: int, val: int = 64, side: int = 64) -> Path:
    """Draw and prepare ``train`` and ``val`` pictures of ``side`` pixels; the prepared folder."""
    raw, data = folder / "raw", folder / "data"
    generate(PicturesConfig(out=str(raw), train=train, val=val, side=side))
    prepare(PrepareConfig(source=str(raw), out=str(data), num_workers=0))
    return data
