"""Settings of object detection and instance segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.data.config import Augmentation, DetectionAugmentConfig
from itpn_ray.errors import ConfigError
from itpn_ray.metrics import AVERAGE_PRECISION, Metric
from itpn_ray.tasks.config import DenseTaskConfig, ModelConfig

FEW_SIZES = 256
"""Multiples of it, pixels, are few enough sides to compile a network for each pair."""
HEADS = ("mask_rcnn", "cascade_mask_rcnn", "dino")


@dataclass(frozen=True, kw_only=True)
class Detection(DenseTaskConfig):
    """Object detection and instance segmentation (paper, 5.3).

    Raises:
        ConfigError: a value lies outside its range.
    """

    name: ClassVar[str] = "detection"
    implementation: ClassVar[str] = "itpn_ray.tasks.detection.task:DetectionTask"
    title: ClassVar[str] = "Detection"
    kinds: ClassVar[tuple[str, ...]] = ("rcnn", "dino")
    metrics: ClassVar[tuple[Metric, ...]] = AVERAGE_PRECISION
    augmentation: ClassVar[type[Augmentation]] = DetectionAugmentConfig
    speed_fields: ClassVar[tuple[str, ...]] = (
        *DenseTaskConfig.view_fields,
        *("head", "masks", "small_head"),
    )

    head: str = "mask_rcnn"
    """What finds the objects: ``mask_rcnn``, ``cascade_mask_rcnn`` or ``dino``."""
    masks: bool = True
    """Find masks besides boxes, as Mask R-CNN does; DINO then has the mask branch of MaskDINO."""
    small_head: bool = False
    """A head of few and narrow layers that looks at fewer boxes, for laptops and tests."""
    pad_to: int = 32
    """What sides of training batches are padded to multiples of, pixels, itself one of 32. With
    ``model.compile`` 256, so that views have few sizes, each of which is compiled once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("task.head", self.head, HEADS)
        if self.pad_to < 32 or self.pad_to % 32:
            raise ConfigError(
                "task.pad_to",
                self.pad_to,
                "is no multiple of 32, the largest stride of the maps that are cut to views",
                f"Use {max(32, self.pad_to // 32 * 32)}",
            )

    def check_model(self, model: ModelConfig) -> None:
        """Refuse to compile more shapes than are worth it.

        Raises:
            ConfigError: views are padded to too many sizes, or each r would be another graph.
        """
        if model.compile and self.pad_to < FEW_SIZES:
            raise ConfigError(
                "model.compile",
                True,
                "would compile anew for each size of a batch's views",
                f"Add --task.pad-to {FEW_SIZES}, or leave it out",
            )
        if model.compile and model.elastic_migration:
            raise ConfigError(
                "model.compile",
                True,
                "would compile each size of a batch's views once for each elastic r",
                "Leave one of the two out",
            )
