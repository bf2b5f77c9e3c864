"""Settings of predictions for images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from itpn_ray import checks
from itpn_ray.ray_runtime.config import RayConfig


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Which network looks at which images.

    Raises:
        ConfigError: a value lies outside its range.
    """

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")]
    """A run's folder, or a weight file, of a classifier or detector."""
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """An image, or a folder with images and folders of images: a local path or
    ``s3://bucket/prefix``."""
    key: str | None = None
    """Which network of a file that holds several, such as model_ema; None: the command
    says which it takes."""
    out: str = "predictions"
    """Folder for the results: a local path or ``s3://bucket/prefix``."""
    batch: int = 0
    """Images a forward pass; 0: 4 for a detector, 64 for a classifier."""
    min_score: float = 0.05
    """Detections, and labels of images that may have several, less sure than this are left out."""
    draw_score: float = 0.3
    """Those less sure than this are not drawn."""
    draw_side: int = 1024
    """Longest side of drawn images, pixels; 0 draws none."""
    workers: int = 1
    """Ray Data actors with a network each; 0: this process, without Ray."""
    threads: int = 2
    """Decoding and, on a CPU, compute threads of each worker."""
    gpu: bool | None = None
    """Use a GPU for each worker, in bf16. None: where this machine has one."""
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        checks.positive("threads", self.threads)
        for name in ("batch", "draw_side", "workers"):
            checks.not_negative(name, getattr(self, name))
        for name in ("min_score", "draw_score"):
            checks.in_range(name, getattr(self, name), 0.0, 1.0)
