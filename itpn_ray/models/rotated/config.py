"""What a rotated Faster R-CNN is made of; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from itpn_ray.errors import ConfigError
from itpn_ray.models.config import DetectorConfig


@dataclass(frozen=True, kw_only=True)
class RotatedRcnnConfig(DetectorConfig):
    """A region proposal network, then one head that turns its boxes.

    What is not here is as mmrotate's configuration for DOTA has it; see `roi_head`.
    """

    kind: str = field(default="rotated_rcnn", init=False)
    fc_width: int = 1024
    """Width of the head's two hidden layers."""
    proposals: int = 2000
    """Boxes of an image that the proposal network hands on."""
    regions: int = 512
    """Of those, boxes of an image that the head learns from in a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fc_width", "proposals", "regions"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "must be positive", "Use 1 or more")
