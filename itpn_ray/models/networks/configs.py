"""Every kind of network that a weight file may hold: its config as plain data, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from itpn_ray.errors import ConfigError
from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.config import (
    AutoencoderConfig,
    ClassifierConfig,
    DenseConfig,
    DistillerConfig,
    NetworkConfig,
    PyramidConfig,
    TrunkConfig,
)
from itpn_ray.models.detection.dino.config import DinoConfig
from itpn_ray.models.detection.rcnn.config import RcnnConfig
from itpn_ray.models.rotated.config import RotatedRcnnConfig
from itpn_ray.models.segmentation.config import EomtConfig, MaskDinoConfig, SegmenterConfig

_KINDS: dict[str, type[Any]] = {
    "classifier": ClassifierConfig,
    "dense": DenseConfig,
    "autoencoder": AutoencoderConfig,
    "distiller": DistillerConfig,
    "rcnn": RcnnConfig,
    "rotated_rcnn": RotatedRcnnConfig,
    "dino": DinoConfig,
    "segmenter": SegmenterConfig,
    "mask_dino": MaskDinoConfig,
    "eomt": EomtConfig,
}


def network_to_dict(config: NetworkConfig) -> dict[str, Any]:
    """`config` as plain data that JSON can hold."""
    return dataclasses.asdict(config)


def network_from_dict(data: Mapping[str, Any]) -> NetworkConfig:
    """The config that `network_to_dict` described.

    Raises:
        ConfigError: unknown kind, or fields that the kind does not have.
    """
    kind = data.get("kind") if isinstance(data, Mapping) else data
    if not isinstance(data, Mapping) or kind not in _KINDS:
        raise ConfigError("kind", kind, "no such kind of network", f"Use one of {list(_KINDS)}")
    fields = {key: value for key, value in data.items() if key != "kind"}
    try:
        trunk = dict(fields["trunk"])
        trunk["acceleration"] = Acceleration(**trunk.get("acceleration", {}))
        fields["trunk"] = TrunkConfig(**trunk)
        if "pyramid" in fields:
            fields["pyramid"] = PyramidConfig(**fields["pyramid"])
        config: NetworkConfig = _KINDS[kind](**fields)
    except (KeyError, TypeError) as error:
        raise ConfigError(
            kind, dict(data), f"not a full description ({error})", "Use a file saved by itpn_ray"
        ) from error
    return config
