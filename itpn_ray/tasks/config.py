"""What the settings of all tasks have in common, and those of the network they train."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

from itpn_ray import checks
from itpn_ray.data.config import Augmentation, AugmentConfig
from itpn_ray.errors import ConfigError
from itpn_ray.metrics import LOSS, Metric
from itpn_ray.models.acceleration.config import RELATIVE_POSITIONS, Acceleration
from itpn_ray.models.config import crop_fraction

MOST_COMPILED = 7
"""Graphs of one network beyond which torch.compile silently gives up: its limit of 8, less one."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: str = "fast_itpn_base"
    """Name in the table of sizes, e.g. fast_itpn_nano, fast_itpn_base, itpn_large."""
    image_size: int = 224
    """Side of the square input, pixels; a multiple of 16. Detection, whose images have any
    size, has learned positions for an image of this side, and resizes them."""
    crop_fraction: float | None = None
    """Side of the central crop that is evaluated over the shorter side of the resized image;
    None: 0.875 below 384 px and 1 from there (the authors'). Detection sees whole images."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; grows linearly from 0 at the first."""
    migration: float = 0.0
    """r, the fraction of stage-3 tokens that has migrated by the last block (paper, 4.1)."""
    elastic_migration: tuple[float, ...] = ()
    """Values of r, 0 the first, of which each training step has another one, so that one weight
    file serves all; evaluations find the headline metric at each. Empty: ``migration`` always."""
    window: int = 0
    """Largest side of an attention window in stage 3, tokens; 0: the whole map (paper, 4.2)."""
    gathering: bool = False
    """Give each window a gathering token, through which windows see each other (paper, 4.2)."""
    window_position: str = "none"
    """Learned position bias of windows: ``none``, ``windows`` for their own attention (the paper's
    HRPE), or ``windows+cross`` for that to gathering tokens too (RPE; Table 7)."""
    layer_scale: float | None = None
    """First value of the learned scale on each residual branch; None: the size's own (0.1 for
    Fast-iTPN, no scale for iTPN)."""
    relative_position: bool = False
    """Learn a bias for every offset between two tokens of stage 3 (iTPN with CLIP)."""
    convolution: bool = False
    """Use 3x3 convolutions where the paper has channel MLPs: in stages 1 and 2, and in the pyramid
    (the paper's comparison, Table 9)."""
    init: str = ""
    """Weights to start from: a weight file of this project or of the authors, a run's folder, or
    zoo:NAME, a network that comes with the package; empty: random."""
    init_key: str | None = None
    """Which network of an initial file that holds several, such as model_ema; None: as the
    run says when it starts."""
    partial_init: bool = False
    """Accept an initial file that fills less than 95 % of the trunk."""
    freeze_trunk: bool = False
    """Train only what lies behind the trunk: norm and head of a classifier (linear probing), or
    pyramid and head. The trunk keeps the initial weights and drops no paths; layer decay has
    nothing to scale."""
    lora_rank: int = 0
    """Train updates of this rank (LoRA) of the attentions and MLPs of the initial trunk instead of
    its weights; norm, head and what the file has not are trained in full. The exported file is an
    ordinary network. 0: all weights are trained. For classifiers."""
    compile: bool = False
    """Compile the network with torch.compile."""
    checkpoint_activations: bool = False
    """Trade compute for memory: recompute activations in the backward pass."""

    def __post_init__(self) -> None:
        checks.positive("model.image_size", self.image_size)
        if self.image_size % 16:
            lower = max(16, self.image_size // 16 * 16)
            raise ConfigError(
                "model.image_size",
                self.image_size,
                "is not a multiple of 16, the largest stride of the trunk",
                f"Use {lower} or {lower + 16}",
            )
        if self.crop_fraction is not None:
            checks.in_range("model.crop_fraction", self.crop_fraction, 0.1, 1.0)
        checks.in_range("model.drop_path", self.drop_path, 0.0, 1.0, open_high=True)
        checks.in_range("model.migration", self.migration, 0.0, 0.9)
        self._check_elastic()
        checks.not_negative("model.window", self.window)
        if self.gathering and not self.window:
            raise ConfigError(
                "model.gathering",
                True,
                "gathering tokens belong to windows",
                "Add --model.window 16",
            )
        checks.not_negative("model.lora_rank", self.lora_rank)
        if self.freeze_trunk and self.lora_rank:
            raise ConfigError(
                "model.lora_rank",
                self.lora_rank,
                "trains the trunk, and model.freeze_trunk does not",
                "Leave one of the two out",
            )
        if self.freeze_trunk and self.partial_init:
            raise ConfigError(
                "model.partial_init",
                True,
                "would freeze what the initial file does not fill at random values",
                "Leave it out, or leave out --model.freeze-trunk",
            )
        self._check_window_position()
        if self.layer_scale is not None:
            checks.positive("model.layer_scale", self.layer_scale)

    def _check_window_position(self) -> None:
        checks.one_of("model.window_position", self.window_position, RELATIVE_POSITIONS)
        if self.window_position != "none" and not self.window:
            raise ConfigError(
                "model.window_position",
                self.window_position,
                "its offsets are those inside a window",
                "Add --model.window 16",
            )
        if self.window_position == "windows+cross" and not self.gathering:
            raise ConfigError(
                "model.window_position",
                self.window_position,
                "cross attention reads gathering tokens, and there are none",
                "Add --model.gathering true",
            )

    def _check_elastic(self) -> None:
        ratios = self.elastic_migration
        for ratio in ratios:
            checks.in_range("model.elastic_migration", ratio, 0.0, 0.9)
        if not ratios:
            return
        # `evaluate_ratios` takes the first as r = 0 and gives the others names of their own.
        if ratios[0] != 0 or any(a >= b for a, b in itertools.pairwise(ratios)):
            raise ConfigError(
                "model.elastic_migration",
                ratios,
                "does not rise from 0",
                "Write such as 0 0.1 0.2 0.3 0.4",
            )
        if self.migration:
            raise ConfigError(
                "model.migration",
                self.migration,
                "is one r, and model.elastic_migration names those of the steps",
                "Leave one of the two out",
            )
        if self.compile and len(ratios) > MOST_COMPILED:
            raise ConfigError(
                "model.elastic_migration",
                ratios,
                f"has more than {MOST_COMPILED} values, each a graph of its own to compile",
                "Name fewer, or leave out --model.compile",
            )

    @property
    def evaluation_crop(self) -> float:
        """`crop_fraction`, or what is usual for the size."""
        # 0 lies outside the range, so `or` replaces None alone.
        return self.crop_fraction or crop_fraction(self.image_size)

    @property
    def acceleration(self) -> Acceleration:
        """Migration, windows and gathering of the trunk."""
        return Acceleration(
            # r = 0 is no migration at all, so that it is exactly the plain network.
            reduction="migration" if self.migration else "none",
            ratio=self.migration,
            window=self.window,
            gathering=self.gathering,
            relative_position=self.window_position,
        )

    def trunk_changes(self) -> dict[str, Any]:
        """What the trunk has other than the named size, without acceleration."""
        changes = {
            "drop_path": self.drop_path,
            "relative_position": self.relative_position,
            "convolution": self.convolution,
        }
        scale = {} if self.layer_scale is None else {"layer_scale": self.layer_scale}
        return changes | scale


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The base of each task's settings; a task is registered by them (`itpn_ray.tasks.registry`).

    Settings import no PyTorch, so that a mistyped option is answered at once.
    """

    name: ClassVar[str]
    """Name of the task in saved configurations and weight files, e.g. ``classification``."""
    implementation: ClassVar[str]
    """``package.module:Class`` of the `itpn_ray.tasks.base.Task`, imported when it is needed."""
    title: ClassVar[str] = "Training"
    """What its runs are called in reports."""
    kinds: ClassVar[tuple[str, ...]] = ()
    """Kinds of network (`itpn_ray.models.networks.configs`) that are this task's in weight files
    which name no task."""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """What its evaluations find; the first headline metric is what a sweep improves."""
    low_rank: ClassVar[bool] = False
    """Whether it trains low-rank updates where ``model.lora_rank`` asks for them."""
    augmentation: ClassVar[type[Augmentation]] = AugmentConfig
    """Settings of the augmentation of its training images."""
    path_fields: ClassVar[tuple[str, ...]] = ()
    """Own fields that name files or folders: workers read them in other working folders."""
    view_fields: ClassVar[tuple[str, ...]] = ()
    """Own fields that decide how large the images are which a trained network is timed on."""
    speed_fields: ClassVar[tuple[str, ...]] = ()
    """Own fields that the speed of a trained network depends on, ``view_fields`` among them."""

    @classmethod
    def headline(cls) -> Metric:
        """The metric that the task is judged by: the first headline of its own, or the loss."""
        return next((metric for metric in cls.metrics if metric.headline), LOSS)

    def input_side(self, model: ModelConfig) -> tuple[int, str]:
        """Shorter side of what the network sees, pixels, and the option that sets it."""
        return model.image_size, "--model.image-size"

    @property
    def balancing(self) -> str:
        """The option that lets rare classes count as much as frequent ones; empty: none, or on."""
        return ""

    @property
    def average(self) -> tuple[str, float]:
        """What a moving average of weights is kept for, and its decay; ("", 0) where none is."""
        return "", 0.0

    def check_model(self, model: ModelConfig) -> None:
        """Refuse settings of the network that the task has no use for.

        Raises:
            ConfigError: names the setting.
        """


@dataclass(frozen=True, kw_only=True)
class AveragedConfig(TaskConfig):
    """Settings of tasks that evaluate and export a moving average of the weights."""

    ema_decay: float = 0.0
    """Decay of the averaged weights that are evaluated and exported, warmed up over a run's first
    steps; 0 turns them off."""

    def __post_init__(self) -> None:
        checks.in_range("task.ema_decay", self.ema_decay, 0.0, 1.0, open_high=True)

    @property
    def average(self) -> tuple[str, float]:
        """The weights that are evaluated and exported."""
        return ("evaluated and exported weights", self.ema_decay) if self.ema_decay else ("", 0.0)


@dataclass(frozen=True, kw_only=True)
class DenseTaskConfig(AveragedConfig):
    """Settings of tasks whose images have any size: a head over the pre-trained pyramid."""

    view_fields: ClassVar[tuple[str, ...]] = ("short_side", "long_side")
    speed_fields: ClassVar[tuple[str, ...]] = view_fields

    init_pyramid: bool = True
    """Take the pyramid of the initial weights too; false: draw it anew (paper, Table 8)."""
    short_side: int = 800
    """Shorter side of an image in evaluation, pixels, unless its longer one gets too long."""
    long_side: int = 1333
    """Longest side of an image in evaluation, pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("task.short_side", self.short_side)
        # Only the lower bound matters: the longer side cannot be the smaller one.
        checks.in_range("task.long_side", self.long_side, self.short_side, 100_000)

    def check_model(self, model: ModelConfig) -> None:
        """Refuse compilation.

        Raises:
            ConfigError: the network is to be compiled.
        """
        if model.compile:
            raise ConfigError(
                "model.compile",
                True,
                "would compile anew for each size of an image",
                f"Leave it out for {self.name}",
            )

    def input_side(self, model: ModelConfig) -> tuple[int, str]:
        """That of whole images in evaluation."""
        return self.short_side, "--task.short-side"
