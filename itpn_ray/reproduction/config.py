"""Settings of reproducing tables and figures of the paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from itpn_ray import checks
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.tracking.config import TrackingConfig

NAMES = (*(f"table{number}" for number in range(3, 10)), "fig5", "fig6", "fig7")
SCALES = ("nano", "small", "paper")


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Which tables and figures, at which scale, on which data.

    Raises:
        ConfigError: a value lies outside its range.
    """

    tables: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """Tables and figures, such as table8 fig7."""
    scale: str = "nano"
    """``nano`` for a laptop, ``small`` for one GPU, ``paper`` for the paper's own recipes."""
    seeds: int = 3
    """Runs of each cell, which differ by their seed alone, from 0 on."""
    data: str = ""
    """Prepared images with classes, to pre-train on and to classify (the paper's ImageNet-1K)."""
    intermediate: str = ""
    """Prepared images of more classes, to fine-tune on first (the paper's ImageNet-22K)."""
    objects: str = ""
    """Prepared images with objects, to detect (the paper's COCO)."""
    masks: str = ""
    """Prepared images with a class a pixel, to segment (the paper's ADE20K)."""
    rotated: str = ""
    """Prepared images with rotated objects (the paper's DOTA)."""
    teacher: str = ""
    """Weights of the CLIP teacher; without, cells that need one are left out."""
    workers: str = ""
    """Training workers of each run, such as 1 or 2..8; 0: in this process; empty: as the scale
    has it, which is 0 at nano."""
    cpus_per_worker: float | None = None
    """CPUs of a worker, and its compute threads; None: as the recipes have it."""
    dry_run: bool = False
    """Write what would run, and start nothing."""
    out: str = "out/reproduction"
    """Folder of all tables, and of their runs, which tables share."""
    ray: RayConfig = field(default_factory=RayConfig)
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(kind="none"))

    def __post_init__(self) -> None:
        for name in self.tables:
            checks.one_of("table", name, NAMES)
        checks.one_of("scale", self.scale, SCALES)
        checks.positive("seeds", self.seeds)
        if self.cpus_per_worker is not None:
            checks.positive("cpus_per_worker", self.cpus_per_worker)
