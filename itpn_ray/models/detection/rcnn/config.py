"""What a Mask R-CNN or Cascade Mask R-CNN is made of; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from itpn_ray.errors import ConfigError
from itpn_ray.models.config import DetectorConfig


@dataclass(frozen=True, kw_only=True)
class RcnnConfig(DetectorConfig):
    """A region proposal network, then one head (Mask R-CNN) or three in a row (Cascade).

    What is not here is as the authors' configurations have it; see `rpn` and `roi_head`.
    """

    kind: str = field(default="rcnn", init=False)
    stages: int = 1
    """Box heads in a row: 1 for Mask R-CNN, 3 for Cascade Mask R-CNN."""
    masks: bool = True
    """Whether there are mask heads."""
    fc_width: int = 1024
    """Width of the last hidden layer of the box heads."""
    proposals: int = 1000
    """Boxes of an image that the proposal network hands on."""
    regions: int = 512
    """Of those, boxes of an image that a head learns from in a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages not in (1, 3):
            raise ConfigError(
                "stages",
                self.stages,
                "no such cascade",
                "Use 1 for Mask R-CNN or 3 for Cascade Mask R-CNN",
            )
        for name in ("fc_width", "proposals", "regions"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "must be positive", "Use 1 or more")
