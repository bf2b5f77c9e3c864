"""Settings of fine-tuning for classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.metrics import TOP_K, Metric
from itpn_ray.tasks.classification.class_weights import named_weights
from itpn_ray.tasks.config import AveragedConfig


@dataclass(frozen=True, kw_only=True)
class ClassifierTaskConfig(AveragedConfig):
    """Settings of tasks that fine-tune a classifier on square crops."""

    low_rank: ClassVar[bool] = True

    mixup: float = 0.0
    """α of the Beta distribution of mixup; 0 turns it off."""
    cutmix: float = 0.0
    """α of the Beta distribution of cutmix; 0 turns it off."""
    random_erasing: float = 0.0
    """Probability that a rectangle of an image is replaced by noise."""
    init_head: bool = False
    """Take the head of the initial weights too, a classifier's, for the classes that it knows by
    name: from ImageNet-22K to ImageNet-1K. The other classes get a new one."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights that are evaluated and exported, warmed up over a run's first
    steps; 0 turns them off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.not_negative("task.mixup", self.mixup)
        checks.not_negative("task.cutmix", self.cutmix)
        checks.in_range("task.random_erasing", self.random_erasing, 0.0, 1.0, open_high=True)


@dataclass(frozen=True, kw_only=True)
class Classification(ClassifierTaskConfig):
    """Fine-tuning for classification (paper, 5.2).

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: ClassVar[str] = "classification"
    implementation: ClassVar[str] = "itpn_ray.tasks.classification.task:ClassificationTask"
    title: ClassVar[str] = "Fine-tuning"
    kinds: ClassVar[tuple[str, ...]] = ("classifier",)
    metrics: ClassVar[tuple[Metric, ...]] = TOP_K

    mixup: float = 0.8
    """α of the Beta distribution of mixup; 0 turns it off."""
    cutmix: float = 1.0
    """α of the Beta distribution of cutmix; 0 turns it off."""
    label_smoothing: float = 0.1
    """Probability mass spread evenly over all classes."""
    class_weights: tuple[str, ...] = ()
    """How much images of a class count in the loss: ``balanced`` lets rare classes count as much as
    frequent ones; or weights, such as ``cat=2 dog=0.5``, of which unnamed classes have 1."""
    random_erasing: float = 0.25
    """Probability that a rectangle of an image is replaced by noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # For its errors alone; whether the classes exist is known only with the data.
        named_weights(self.class_weights)
        checks.in_range("task.label_smoothing", self.label_smoothing, 0.0, 1.0, open_high=True)

    @property
    def balancing(self) -> str:
        """See `TaskConfig.balancing`."""
        return "" if self.class_weights else "--task.class-weights balanced"
