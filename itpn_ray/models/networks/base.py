"""What all kinds of network have in common: a trunk, and a config that rebuilds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from itpn_ray.models.config import IMAGENET_MEAN, IMAGENET_STD, NetworkConfig, crop_fraction
from itpn_ray.models.trunk.base import Trunk


class Network(nn.Module):
    """A trunk with something behind it.

    Attributes:
        config: describes the network completely.
        trunk: the trunk.
        num_drops: columns of the `drop_noise` that the network takes.
        prefix: stands before the names of the trunk's and pyramid's tensors.
        classes: names of the classes, where the weight file says; else empty.
    """

    config: NetworkConfig
    trunk: Trunk
    num_drops: int
    prefix: ClassVar[str] = ""
    classes: tuple[str, ...] = ()
    _crop_fraction: float | None = None
    _timms_own: Mapping[str, Any] = {}

    @property
    def body(self) -> Trunk:
        """The trunk, wherever the network keeps it."""
        return self.trunk

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input for the backward pass, and compute the rest again."""
        self.trunk.set_grad_checkpointing(enable)

    # --- how images become the network's input ---------------------------------------------------

    def remember(self, metadata: Mapping[str, str]) -> None:
        """Take what a weight file's metadata say of classes and images.

        Raises:
            ValueError: an entry is not what `Task.export` writes.
        """
        self.classes = tuple(map(str, json.loads(metadata.get("classes", "[]"))))
        if "crop_fraction" in metadata:
            self._crop_fraction = float(metadata["crop_fraction"])

    @property
    def image_size(self) -> int:
        """Side of the images that the network was made for, pixels."""
        return self.config.trunk.image_size

    @property
    def crop_fraction(self) -> float:
        """Side of the central crop that is evaluated over the resized image's shorter side.

        As the weight file says, else as usual for the size.
        """
        return self._crop_fraction or crop_fraction(self.image_size)

    @property
    def preprocess(self) -> Callable[..., Any]:
        """Turns an image (file, PIL image or uint8 tensor) into the network's input.

        It does what evaluation does; see `preprocess.CentreCrop` and, of detectors,
        `preprocess.WholeView`.
        """
        from itpn_ray.models.networks.preprocess import CentreCrop

        return CentreCrop(image_size=self.image_size, crop_fraction=self.crop_fraction)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Timm's description of the input, which `timm.data.resolve_model_data_config` reads."""
        return {
            **self._timms_own,
            "input_size": (3, self.image_size, self.image_size),
            "crop_pct": self.crop_fraction,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        }

    @pretrained_cfg.setter
    def pretrained_cfg(self, config: Mapping[str, Any]) -> None:
        self._timms_own = dict(config)
        # Of a folder timm says what its weights were trained for, else what is usual for the name.
        if config.get("source") in ("local-dir", "hf-hub"):
            self._crop_fraction = config.get("crop_pct")
            names = tuple(config.get("label_names") or ())
            known = len(names) == getattr(self, "num_classes", 0)  # the head may be another by now
            self.classes = names if known else ()
