"""Settings of writing a teacher's features before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from itpn_ray import checks
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining


@dataclass(frozen=True, kw_only=True)
class CacheTeacherConfig:
    """A CLIP teacher's features, written once for the runs of a configuration.

    Raises:
        ConfigError: a value lies outside its range, or the configuration has no CLIP teacher.
    """

    features: str = ""
    """Folder or s3:// prefix to write; a run reads it with --task.features."""
    views: int = 4
    """Views of each training image; epoch e of a run shows view e mod this."""
    batch: int = 64
    """Images that the teacher sees at once."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    """The run that will read the features; its workers write them."""

    def __post_init__(self) -> None:
        for name in ("views", "batch"):
            checks.positive(name, getattr(self, name))
        if not isinstance(self.experiment.task, ClipPretraining):
            raise ConfigError(
                "recipe",
                self.experiment.run,
                "has no CLIP teacher whose features could be written",
                "Name a recipe of CLIP pre-training",
            )
