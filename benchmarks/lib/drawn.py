"""Small drawn images, prepared: data for benchmarks of the training loop."""

from __future__ import annotations

from pathlib import Path

from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.synthetic.layouts import generate


def prepared_images(folder: Path, train: int, val: int = 64, side: int = 64) -> Path:
    """Draw and prepare ``train`` and ``val`` images of ``side`` pixels; the prepared folder."""
    raw, data = folder / "raw", folder / "data"
    generate(SynthesizeConfig(out=str(raw), train=train, val=val, side=side))
    prepare(PrepareConfig(source=str(raw), out=str(data), num_workers=0))
    return data
