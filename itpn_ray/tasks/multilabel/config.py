"""Settings of fine-tuning for images with several labels each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray.metrics import LABELS, Metric
from itpn_ray.tasks.classification.config import ClassifierTaskConfig


@dataclass(frozen=True, kw_only=True)
class MultiLabel(ClassifierTaskConfig):
    """Fine-tuning for images with several labels each, any number of them: yes or no to each class.

    Mixing is off unless asked for: a patch of another image may hide what a label stands for.

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: ClassVar[str] = "multilabel"
    implementation: ClassVar[str] = "itpn_ray.tasks.multilabel.task:MultiLabelTask"
    title: ClassVar[str] = "Fine-tuning on several labels"
    metrics: ClassVar[tuple[Metric, ...]] = LABELS
