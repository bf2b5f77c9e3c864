"""What the paper's recipes share (5.1): 64 GPUs, and parts of them go on with fewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from itpn_ray.data.config import LoaderConfig
from itpn_ray.experiment import ExperimentConfig

Recipe = Callable[[], ExperimentConfig]

BATCH = 4096
"""Images a step of pre-training."""
MICRO_BATCH = 64
"""Images a GPU at once: its share of the batch among 64; with fewer GPUs they accumulate."""
CLUSTER: dict[str, Any] = {
    "workers": "64",
    "gpus": True,
    "cpus_per_worker": 8.0,
    "loader": LoaderConfig(threads=8),
}
"""The paper's 64 GPUs. A command may say --workers 8..64 and go on with those there are."""


def by_name(*recipes: Recipe) -> dict[str, Recipe]:
    """Recipes by the names of their functions."""
    return {recipe.__name__: recipe for recipe in recipes}
