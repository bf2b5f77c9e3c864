"""Settings of embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from itpn_ray import checks
from itpn_ray.ray_runtime.config import RayConfig


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Which network embeds which images.

    Raises:
        ConfigError: a value lies outside its range.
    """

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """A run's folder, or a weight file, of any network: pre-trained, classifier, detector."""
    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """A folder of images, or prepared data, whose labels are then probed: a local path or URI."""
    key: str | None = None
    """Which network of a file that holds several, such as model_ema; None: the command
    says which it takes."""
    splits: tuple[str, ...] = ("train", "val")
    """Of prepared data: the splits to embed, of those that there are."""
    neighbours: int = 20
    """k of the nearest-neighbour probe."""
    batch: int = 64
    """Images a forward pass."""
    workers: int = 1
    """Ray Data actors with a network each; 0: this process, without Ray."""
    threads: int = 2
    """Decoding and, on a CPU, compute threads of each worker."""
    gpu: bool | None = None
    """Use a GPU for each worker, in bf16. None: where this machine has one."""
    run: str = "features"
    """Name of the run."""
    out: str = "out"
    """Folder of all runs."""
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "neighbours"):
            checks.positive(name, getattr(self, name))
        checks.not_negative("workers", self.workers)
