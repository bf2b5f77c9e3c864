"""One experiment, composed of the settings that each package owns; to and from a plain dict."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from itpn_ray import checks, renamed
from itpn_ray.costs.config import CostConfig
from itpn_ray.data.config import Augmentation, AugmentConfig, LoaderConfig
from itpn_ray.errors import ConfigError
from itpn_ray.formatting import number_of
from itpn_ray.models.zoo import is_zoo
from itpn_ray.ray_runtime.config import PlacementConfig, RayConfig
from itpn_ray.tasks.config import ModelConfig, TaskConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.registry import settings_class
from itpn_ray.tracking.config import TrackingConfig
from itpn_ray.unprefixed import UNPREFIXED

FREE_TO_CHANGE = (
    "out",
    "run",
    "workers",
    "gpus",
    "cpus_per_worker",
    "deterministic",
    "early_stopping",
    "max_failures",
    "log_every",
    "checkpoint",
    "tracking",
    "ray",
    "placement",
    "cost",
    "loader",
    "optim.micro_batch",
    "model.compile",
    "model.checkpoint_activations",
)
"""Fields that change where or how a run is computed and not what: they may differ on resuming."""


OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW or Muon, linear warm-up, then cosine decay (paper, 5.1 and 5.2), steps or a line (5.3).

    Raises:
        ConfigError: a value lies outside its range.
    """

    optimizer: str = "adamw"
    """``adamw``, or ``muon``: matrices move along the orthogonalised average of their gradients
    (Jordan et al., 2024), scaled so that AdamW's rate and decay serve, the rest by AdamW."""
    global_batch: int = 4096
    """Images per step over all workers; shares and accumulation follow from it."""
    micro_batch: int = 0
    """Most images a worker passes through the network at once; 0: its whole share."""
    epochs: float = 400.0
    """Length of the run, epochs."""
    warmup_epochs: float = 40.0
    """Epochs of linear warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up, in the place of ``warmup_epochs``; 0: those count."""
    lr: float = 1.5e-4
    """Peak learning rate, absolute."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    lr_milestones: tuple[float, ...] = ()
    """Fractions of the run after which the rate falls to a tenth; with any there is no cosine."""
    linear: bool = False
    """Let the rate fall in a line to 0 after the warm-up, in the place of the cosine."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; vectors have none."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below it; 1: none."""
    backbone_lr_scale: float = 1.0
    """Factor on the learning rate of everything below pyramid and heads."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0: no clipping."""
    max_skipped_steps: int = 5
    """Non-finite steps in a row that are skipped before the run stops."""

    def __post_init__(self) -> None:
        checks.one_of("optim.optimizer", self.optimizer, OPTIMIZERS)
        for name in ("global_batch", "epochs", "lr", "max_skipped_steps"):
            checks.positive(f"optim.{name}", getattr(self, name))
        for name in ("micro_batch", "warmup_epochs", "warmup_steps", "min_lr", "weight_decay"):
            checks.not_negative(f"optim.{name}", getattr(self, name))
        checks.not_negative("optim.clip_norm", self.clip_norm)
        for name in ("beta1", "beta2"):
            checks.in_range(f"optim.{name}", getattr(self, name), 0.0, 1.0, open_high=True)
        for name in ("layer_decay", "backbone_lr_scale"):
            checks.in_range(f"optim.{name}", getattr(self, name), 0.01, 1.0)
        if self.micro_batch % 2 or self.global_batch % 2:
            odd = "micro_batch" if self.micro_batch % 2 else "global_batch"
            raise ConfigError(
                f"optim.{odd}",
                getattr(self, odd),
                "is odd, and images are mixed in pairs",
                "Use an even number",
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise ConfigError(
                "optim.warmup_epochs",
                self.warmup_epochs,
                f"is longer than the run of {number_of(self.epochs, 'epoch')}",
                "Shorten the warm-up with --optim.warmup-epochs",
            )
        if self.warmup_steps and self.warmup_epochs:
            raise ConfigError(
                "optim.warmup_steps",
                self.warmup_steps,
                f"there are {self.warmup_epochs:g} warm-up epochs too",
                "Add --optim.warmup-epochs 0, or leave the steps out",
            )
        if self.linear and (self.lr_milestones or self.min_lr):
            raise ConfigError(
                "optim.linear",
                True,
                "does not go with lr_milestones or min_lr: the rate falls in a line to 0",
                "Leave one of them out",
            )
        for fraction in self.lr_milestones:
            checks.in_range("optim.lr_milestones", fraction, 0.0, 1.0, open_high=True)
        if self.lr_milestones and self.min_lr:
            raise ConfigError(
                "optim.min_lr",
                self.min_lr,
                "is where a cosine ends, but the rate falls in steps",
                "Leave it out, or leave out --optim.lr_milestones",
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When and where the whole state is saved.

    Raises:
        ConfigError: a value lies outside its range.
    """

    uri: str = ""
    """Folder or s3:// prefix; empty: checkpoints/ in the run's folder."""
    every_steps: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep_last: int = 2
    """Newest checkpoints that are kept."""
    keep_every: int = 0
    """Also keep each checkpoint whose step is a multiple of this; 0: none."""
    keep_best: bool = False
    """Save after each evaluation that is the best so far by the task's headline metric (top-1, box
    AP, or the loss of pre-training), keep that checkpoint, and export its weights at the end."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "keep_last"):
            checks.positive(f"checkpoint.{name}", getattr(self, name))
        checks.not_negative("checkpoint.keep_every", self.keep_every)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that decides what a run computes and where it goes.

    Raises:
        ConfigError: a value lies outside its range, or two contradict each other.
    """

    run: str = "run"
    """Name of the run; its folder is OUT/RUN. The same name and settings resume it."""
    out: str = "out"
    """Folder of all runs."""
    data: str = ""
    """Prepared data: a folder or URI written by `itpn-ray prepare`."""
    workers: str = "1"
    """Training workers: 4, or 2..8 to continue with as many as there are. 0: in this process."""
    gpus: bool | None = None
    """Give each worker a GPU (nccl, bf16), or none (CPU, gloo, float32). None: where there is a GPU
    for each worker."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for a worker, and its compute threads."""
    sharded: bool = False
    """Spread weights, averages and moments over the workers (FSDP2) instead of repeating them."""
    max_failures: int = 3
    """Restarts after a lost worker before the run fails; -1: no limit."""
    hang_timeout_s: float = 600.0
    """Seconds after which a worker that the others wait for counts as hung, and the run
    restarts. It must outlast what one worker does alone: draw, look for a checkpoint."""
    seed: int = 0
    """Seed of every random draw."""
    deterministic: bool = False
    """Use deterministic algorithms alone, so that a GPU repeats the same bits too; an operation
    that has none ends the run with its name."""
    eval_every: int = 1
    """Epochs between evaluations on the val split; 0: only at the end, -1: never."""
    early_stopping: int = 0
    """Evaluations without a better headline metric after which the run ends; 0: never."""
    log_every: int = 10
    """Steps between records of the training loss."""
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=PixelPretraining)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: Augmentation = field(default_factory=AugmentConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    placement: Annotated[PlacementConfig, UNPREFIXED] = field(default_factory=PlacementConfig)
    cost: Annotated[CostConfig, UNPREFIXED] = field(default_factory=CostConfig)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.run):
            raise ConfigError(
                "run", self.run, "is not a plain name", "Use letters, digits, '.', '_' and '-'"
            )
        self.worker_range  # noqa: B018  parsed here so that a bad value fails on the driver
        if self.workers == "0" and self.loader.transport == "ray":
            raise ConfigError(
                "loader.transport",
                self.loader.transport,
                "needs Ray, which a run in this process (workers 0) does not start",
                "Add --loader.transport threads, or use one worker",
            )
        if self.deterministic and self.model.compile:
            raise ConfigError(
                "deterministic",
                True,
                "does not go with model.compile, whose kernels are chosen by their speed",
                "Leave one of the two out",
            )
        if self.sharded and self.optim.optimizer == "muon":
            raise ConfigError(
                "optim.optimizer",
                "muon",
                "needs whole matrices, and `sharded` spreads them over the workers",
                "Leave one of the two out",
            )
        if self.placement.accelerator and self.gpus is False:
            raise ConfigError(
                "accelerator",
                self.placement.accelerator,
                "workers without GPUs have none",
                "Leave it out, or add --gpus",
            )
        self._check_task()
        checks.positive("cpus_per_worker", self.cpus_per_worker)
        checks.in_range("max_failures", self.max_failures, -1, 1_000_000)
        checks.in_range("eval_every", self.eval_every, -1, 1_000_000)
        checks.positive("log_every", self.log_every)
        checks.not_negative("early_stopping", self.early_stopping)
        if self.eval_every < 1 and (self.early_stopping or self.checkpoint.keep_best):
            raise ConfigError(
                "eval_every",
                self.eval_every,
                "leaves early_stopping and checkpoint.keep_best no evaluations to compare",
                "Use 1 or more",
            )
        checks.positive("hang_timeout_s", self.hang_timeout_s)

    def _check_task(self) -> None:
        """Refuse what does not go with the task."""
        self.task.check_model(self.model)
        if self.model.lora_rank and not self.task.low_rank:
            raise ConfigError(
                "model.lora_rank",
                self.model.lora_rank,
                f"is for the fine-tuning of classifiers, and not for {self.task.name}",
                "Leave it out",
            )
        if type(self.augment) is not self.task.augmentation:
            raise ConfigError(
                "augment",
                type(self.augment).__name__,
                f"does not go with {type(self.task).__name__}",
                f"Use {self.task.augmentation.__name__}",
            )

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers.

        Raises:
            ConfigError: ``workers`` is neither N nor A..B with 1 <= A <= B.
        """
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", self.workers)
        if match:
            fewest = int(match[1])
            most = int(match[2] or fewest)
            if fewest <= most and (fewest > 0 or match[2] is None):
                return fewest, most
        raise ConfigError(
            "workers", self.workers, "is not a number of workers", "Write 4, or 2..8 for a range"
        )


def without_evaluations(config: ExperimentConfig) -> ExperimentConfig:
    """The same experiment, never evaluated, and without what compares evaluations."""
    return dataclasses.replace(
        config,
        eval_every=-1,
        early_stopping=0,
        checkpoint=dataclasses.replace(config.checkpoint, keep_best=False),
    )


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """The same experiment with local paths made absolute: workers have other working folders."""
    task = config.task
    named: dict[str, Any] = {name: absolute(getattr(task, name)) for name in task.path_fields}
    return dataclasses.replace(
        config,
        out=absolute(config.out),
        data=absolute(config.data),
        task=dataclasses.replace(task, **named),
        model=dataclasses.replace(config.model, init=absolute(config.model.init)),
        loader=dataclasses.replace(config.loader, cache_dir=absolute(config.loader.cache_dir)),
        checkpoint=dataclasses.replace(config.checkpoint, uri=absolute(config.checkpoint.uri)),
    )


def absolute(path: str) -> str:
    """A local path made absolute; a URI, a name of the zoo, or nothing, stays as it is."""
    kept = not path or "://" in path or is_zoo(path)
    return path if kept else str(Path(path).expanduser().absolute())


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as a plain dict of JSON values; the task carries its name as ``kind``."""
    plain = dataclasses.asdict(config)
    plain["task"] = {"kind": config.task.name, **plain["task"]}
    return plain


def from_dict(plain: dict[str, Any]) -> ExperimentConfig:
    """The configuration that :func:`to_dict` wrote, also in an older version.

    Raises:
        ConfigError: a field is unknown, or a value cannot be used.
    """
    rest = dict(plain)
    task = dict(rest.pop("task"))
    settings = settings_class(task.pop("kind"))
    augment = rest.pop("augment", {})
    return _build(
        ExperimentConfig,
        rest,
        "",
        task=_build(settings, task, "task."),
        augment=_build(settings.augmentation, augment, "augment."),
    )


def as_saved_today(plain: dict[str, Any]) -> dict[str, Any]:
    """A configuration that an older version saved, as this one saves it: named and whole.

    What is no configuration, or holds what cannot be used any more, stays as it is.
    """
    try:
        return json.loads(json.dumps(to_dict(from_dict(plain))))
    except (ConfigError, KeyError, TypeError, ValueError):
        return plain


def _build(cls: type, plain: dict[str, Any], prefix: str, **ready: Any) -> Any:
    """Construct a settings class from a dict, descending into nested ones."""
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    values = dict(ready)
    for key, value in plain.items():
        name = renamed.FIELDS.get(prefix + key, key)
        if name not in names:
            raise ConfigError(prefix + key, value, "is no field", checks.nearest(key, names))
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = _build(typing.cast(type, hint), value, f"{prefix}{name}.")
        elif typing.get_origin(hint) is tuple:
            value = tuple(value)  # JSON has lists only
        values[name] = value
    return cls(**values)
