"""Settings of a sweep."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from itpn_ray import checks
from itpn_ray.costs.config import CostConfig
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import FREE_TO_CHANGE, ExperimentConfig, as_saved_today, to_dict
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.storage import join
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tracking import tracking_uri
from itpn_ray.tracking.base import flatten
from itpn_ray.tracking.config import TrackingConfig
from itpn_ray.tuning.space import (
    Dimension,
    Point,
    applied,
    check_corners,
    parse_space,
    stage_of,
)

DEFAULT_SPACE = (
    "task.feature_weight choice 0 0.3 1",
    "optim.layer_decay uniform 0.6 1",
    "model.migration choice 0 0.1 0.2 0.3 0.4",
)
"""λ of pre-training (paper, eq. 4), layer decay and r of fine-tuning (4.1)."""
TORCH, COMPILED, ONNX = TARGETS = ("torch", "compiled", "onnx")
SEARCHES = ("tpe", "quasi", "random", "grid")
PRETRAINED = "pretrained"
"""Folder in OUT of the pre-trainings that sweeps share."""
TRIALS = "trials"
"""Folder in a sweep's of its trials."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep: fine-tuning trials over a space, each from the pre-training that its point names.

    Raises:
        ConfigError: a value lies outside its range, or two contradict each other.
    """

    run: str = "tune"
    """Name of the sweep; the same name and settings resume it."""
    out: str = "out"
    """Folder or URI of all runs."""
    data: str = ""
    """Prepared data: a folder or URI written by `itpn-ray prepare`."""
    trials: int = 6
    """Fine-tuning trials."""
    concurrent: int = 2
    """Trials that run at the same time."""
    space: tuple[str, ...] = DEFAULT_SPACE
    """What varies: PATH KIND VALUES of each field, such as "optim.lr log 1e-4 3e-3". KIND is
    choice, uniform or log. Also written --space.optim.lr log 1e-4 3e-3; what is given takes the
    place of the whole default. A path is one of fine-tuning where that has it, otherwise of
    pre-training; pretrain. or finetune. before it decides."""
    search: str = "tpe"
    """How points are chosen: tpe (quasi-random ones first, then by results), quasi, random, or grid
    (every combination of choices)."""
    quasi: int = 0
    """Quasi-random trials before TPE goes by results; 0: half of them, at least 10."""
    warm_start: str = ""
    """Folder or URI of an earlier sweep over the same space, whose results TPE starts with."""
    extend: int = 0
    """Trials beyond ``trials``: repeat the command of a sweep that has ended, and add this."""
    at_least: float = 0.0
    """Images/s that a network must do to be trained, as timed before the trials; 0: any."""
    at_most_ms: float = 0.0
    """Milliseconds that a network may take for one image alone; 0: any."""
    target: str = TORCH
    """What is timed: the network in PyTorch on a trial's device (torch); the same through
    torch.compile (compiled), a classifier whole, otherwise trunk and pyramid; or its ONNX graph
    under onnxruntime on the CPU (onnx)."""
    speed_batch: int = 32
    """Images a forward pass when images/s are timed."""
    grace_epochs: int = 2
    """Epochs before a trial may be stopped."""
    reduction: int = 3
    """One trial in this many goes on at each rung, and any that is the best at some speed."""
    noise: float | None = None
    """Difference of the headline metric within which trials count as equal. None: one standard
    error where it counts images, otherwise 0.01."""
    repeat_best: int = 0
    """How many of the best trials are trained again with other seeds."""
    seeds: int = 3
    """Seeds of each of those, with its own."""
    apply: str = ""
    """Copy the settings and weights of a trial, or of "best", to OUT/RUN/best: a run's folder."""
    seed: int = 0
    """Seed of the draws from the space."""
    pretrain: ExperimentConfig = field(default_factory=ExperimentConfig)
    finetune: ExperimentConfig = field(
        default_factory=lambda: ExperimentConfig(task=Classification())
    )
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    cost: Annotated[CostConfig, tyro.conf.arg(name="")] = field(default_factory=CostConfig)

    def __post_init__(self) -> None:
        for name in ("trials", "concurrent", "grace_epochs", "speed_batch", "seeds"):
            checks.positive(name, getattr(self, name))
        for name in ("quasi", "extend", "repeat_best", "at_least", "at_most_ms", "noise"):
            # noise may be None.
            checks.not_negative(name, getattr(self, name) or 0)
        checks.one_of("search", self.search, SEARCHES)
        checks.one_of("target", self.target, TARGETS)
        # With 1 no trial would ever be stopped: none is
        # beaten by all at its rung, itself among them.
        checks.in_range("reduction", self.reduction, 2, 100)
        for name, one in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            if one.cost != CostConfig():
                raise ConfigError(
                    f"{name}.max_cost",
                    one.cost.max_cost,
                    "is of one run, and a sweep has one bill",
                    "Give --max-cost, --prices and --machine without the name before them",
                )
        if self.finetune.workers == "0":
            raise ConfigError(
                "finetune.workers",
                self.finetune.workers,
                "trains in this process, and trials are trained by Ray's workers",
                "Give 1 or more",
            )
        dimensions = self.dimensions
        if not dimensions:
            raise ConfigError("space", (), "is empty", "Name at least one field that varies")
        before = stage_of(dimensions, "pretrain")
        if before and self.finetune.model.init:
            raise ConfigError(
                "finetune.model.init",
                self.finetune.model.init,
                f"leaves no pre-training, of which {before[0].path} would be a setting",
                "Leave it out, or the field out of the space",
            )
        check_corners(self.pretrain, before)
        check_corners(self.finetune, stage_of(dimensions, "finetune"))

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The space."""
        return parse_space(self.space, self.pretrain, self.finetune)

    @property
    def place(self) -> str:
        """Where the sweep is kept, the trials in it: OUT/RUN, a folder or a URI."""
        return join(self.out, self.run)

    @property
    def total_trials(self) -> int:
        """With those by which the sweep is extended."""
        return self.trials + self.extend

    @property
    def quasi_trials(self) -> int:
        """How many trials are quasi-random."""
        return min(self.trials, self.quasi or max(10, self.trials // 2))

    @property
    def pretrains(self) -> bool:
        """Whether trials start from weights that the sweep pre-trains."""
        return not self.finetune.model.init


def sweep_to_dict(config: SweepConfig) -> dict[str, Any]:
    """The sweep as a plain dict of JSON values."""
    plain = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if f.name not in ("pretrain", "finetune", "tracking", "ray", "cost")
    }
    return {
        **plain,
        "tracking": dataclasses.asdict(config.tracking),
        "ray": dataclasses.asdict(config.ray),
        "cost": dataclasses.asdict(config.cost),
        "pretrain": to_dict(config.pretrain),
        "finetune": to_dict(config.finetune),
    }


def sweep_as_saved_today(plain: dict[str, Any]) -> dict[str, Any]:
    """A sweep that an older version saved, its two configurations as this one saves them."""
    runs: dict[str, Any] = {
        name: as_saved_today(plain[name]) for name in ("pretrain", "finetune") if name in plain
    }
    return {**plain, **runs}


def pretraining(config: SweepConfig, point: Point) -> ExperimentConfig:
    """The pre-training that a trial at this point starts from.

    It is named by the digest of its settings, so that all trials and sweeps of one OUT that would
    repeat it share it.
    """
    own = applied(config.pretrain, stage_of(config.dimensions, "pretrain"), point)
    # Set before the digest is taken, to which the data belong.
    own = dataclasses.replace(own, data=config.data)
    return dataclasses.replace(
        own,
        run=f"pretrain-{settings_digest(own)}",
        out=join(config.out, PRETRAINED),
        cost=dataclasses.replace(config.cost, max_cost=0.0),  # the sweep holds to its own
        tracking=tracking_of_runs(config),
    )


def tracking_of_runs(config: SweepConfig) -> TrackingConfig:
    """All runs of the sweep in one place: the embedded database lies in the sweep's own out."""
    if config.tracking.kind == "none":
        return config.tracking
    return dataclasses.replace(config.tracking, uri=tracking_uri(config.tracking, config.out))


def settings_digest(config: ExperimentConfig) -> str:
    """Twelve hexadecimal digits of what a run computes, whatever its name, place and workers.

    The data count by their content, so that they may be moved.
    """
    named = ("run", "out", "data", *FREE_TO_CHANGE)
    plain = {k: v for k, v in flatten(to_dict(config)).items() if not checks.within(k, named)}
    plain["data"] = read_manifest(config.data).digest
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def trial(config: SweepConfig, place: str, name: str, point: Point, init: str) -> ExperimentConfig:
    """The fine-tuning of one trial.

    Args:
        config: the sweep.
        place: where the sweep is kept, a folder or a URI.
        name: of the trial.
        point: of the space.
        init: weights to start from.
    """
    own = applied(config.finetune, stage_of(config.dimensions, "finetune"), point)
    return dataclasses.replace(
        own,
        run=name,
        out=join(place, TRIALS),
        data=config.data,
        model=dataclasses.replace(own.model, init=init),
        # The sweep tracks its trials itself, nested in its own run.
        tracking=dataclasses.replace(own.tracking, kind="none"),
    )
