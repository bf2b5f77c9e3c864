"""Settings of a sweep."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from itpn_ray import checks
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, as_saved_today, from_dict, to_dict
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tracking import tracking_uri
from itpn_ray.tracking.config import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep: one pre-training for each λ, then trials of fine-tuning over layer decay and r.

    Raises:
        ConfigError: a value lies outside its range, or two contradict each other.
    """

    run: str = "tune"
    """Name of the sweep; the same name and settings resume it."""
    out: str = "out"
    """Folder of all runs."""
    data: str = ""
    """Prepared data: a folder or URI written by `itpn-ray prepare`."""
    trials: int = 6
    """Fine-tuning trials."""
    concurrent: int = 2
    """Trials that run at the same time."""
    feature_weight: tuple[float, ...] = (0.0, 0.3, 1.0)
    """Values of λ, the weight of the feature loss in pre-training (paper, eq. 4)."""
    layer_decay: tuple[float, float] = (0.6, 1.0)
    """Lowest and highest layer decay."""
    migration: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    """Values of r, the share of tokens that migrate (paper, 4.1)."""
    grace_epochs: int = 2
    """Epochs before ASHA may stop a trial."""
    reduction: int = 3
    """ASHA keeps one trial in this many at each rung."""
    seed: int = 0
    """Seed of the draws from the space."""
    pretrain: ExperimentConfig = field(default_factory=ExperimentConfig)
    finetune: ExperimentConfig = field(
        default_factory=lambda: ExperimentConfig(task=Classification())
    )
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        for name in ("trials", "concurrent", "grace_epochs"):
            checks.positive(name, getattr(self, name))
        checks.in_range("reduction", self.reduction, 2, 100)
        for value in self.feature_weight:
            checks.not_negative("feature_weight", value)
        for r in self.migration:
            checks.in_range("migration", r, 0.0, 0.9)
        low, high = self.layer_decay
        checks.in_range("layer_decay", low, 0.01, high)
        checks.in_range("layer_decay", high, low, 1.0)
        for name in ("feature_weight", "migration"):
            if not getattr(self, name):
                raise ConfigError(name, (), "is empty", "Give at least one value")
        if not hasattr(self.pretrain.task, "feature_weight"):
            raise ConfigError(
                "pretrain.task",
                self.pretrain.task.name,
                "has no λ to sweep",
                "Use a recipe of pre-training on pixels",
            )


def sweep_to_dict(config: SweepConfig) -> dict[str, Any]:
    """The sweep as a plain dict of JSON values."""
    plain = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if f.name not in ("pretrain", "finetune", "tracking", "ray")
    }
    return {
        **plain,
        "tracking": dataclasses.asdict(config.tracking),
        "ray": dataclasses.asdict(config.ray),
        "pretrain": to_dict(config.pretrain),
        "finetune": to_dict(config.finetune),
    }


def sweep_as_saved_today(plain: dict[str, Any]) -> dict[str, Any]:
    """A sweep that an older version saved, its two configurations as this one saves them."""
    runs: dict[str, Any] = {
        name: as_saved_today(plain[name]) for name in ("pretrain", "finetune") if name in plain
    }
    return {**plain, **runs}


def pretraining(config: SweepConfig, folder: str, weight: float) -> ExperimentConfig:
    """The pre-training with λ = ``weight``."""
    plain = to_dict(config.pretrain)
    plain |= {"run": f"lambda-{weight:g}", "out": f"{folder}/pretrain", "data": config.data}
    plain["task"]["feature_weight"] = weight
    # All runs of the sweep in one place: the embedded database lies in the sweep's own out.
    uri = tracking_uri(config.tracking, config.out)
    plain["tracking"] = dataclasses.asdict(dataclasses.replace(config.tracking, uri=uri))
    return from_dict(plain)


def trial(
    config: SweepConfig, folder: str, trial_id: str, choice: dict[str, float], init: str
) -> ExperimentConfig:
    """The fine-tuning of one trial.

    Args:
        config: the sweep.
        folder: the sweep's folder.
        trial_id: name of the trial.
        choice: ``layer_decay`` and ``migration``.
        init: weights pre-trained with the trial's λ.
    """
    plain = to_dict(config.finetune)
    plain |= {"run": trial_id, "out": f"{folder}/trials", "data": config.data}
    plain["model"] |= {"init": init, "migration": choice["migration"]}
    plain["optim"]["layer_decay"] = choice["layer_decay"]
    plain["tracking"] = {"kind": "none"}
    return from_dict(plain)
