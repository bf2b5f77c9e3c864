"""The networks, in plain PyTorch: trunks, pyramids, heads, weights. Usable without Ray.

Names are imported on first use, so that `itpn_ray.models.config` costs no torch. timm knows the
networks by the names of `SIZES` once `itpn_ray.models.timm` is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itpn_ray.models.acceleration.config import Acceleration
    from itpn_ray.models.config import SIZES
    from itpn_ray.models.detection.dino.network import Dino, create_dino
    from itpn_ray.models.detection.rcnn.network import Rcnn, create_rcnn
    from itpn_ray.models.networks.autoencoder import PixelAutoencoder
    from itpn_ray.models.networks.backbone import DenseTrunk
    from itpn_ray.models.networks.build import (
        build,
        create_autoencoder,
        create_dense,
        create_distiller,
        create_model,
        create_trunk,
    )
    from itpn_ray.models.networks.classifier import Classifier
    from itpn_ray.models.networks.distillation import ClipDistiller
    from itpn_ray.models.networks.layer_decay import layer_ids, no_weight_decay
    from itpn_ray.models.rotated.network import RotatedRcnn, create_rotated_rcnn
    from itpn_ray.models.segmentation.base import Segmenter
    from itpn_ray.models.segmentation.network import create_segmenter
    from itpn_ray.models.trunk.base import Trunk
    from itpn_ray.models.weights.convert import to_official
    from itpn_ray.models.weights.files import (
        LoadReport,
        load_model,
        load_official,
        load_weights,
        save_model,
    )

_HOMES = {
    "acceleration.config": ("Acceleration",),
    "networks.autoencoder": ("PixelAutoencoder",),
    "networks.classifier": ("Classifier",),
    "config": ("SIZES",),
    "networks.backbone": ("DenseTrunk",),
    "detection.dino.network": ("Dino", "create_dino"),
    "detection.rcnn.network": ("Rcnn", "create_rcnn"),
    "networks.distillation": ("ClipDistiller",),
    "weights.convert": ("to_official",),
    "weights.files": ("LoadReport", "load_model", "load_official", "load_weights", "save_model"),
    "networks.layer_decay": ("layer_ids", "no_weight_decay"),
    "rotated.network": ("RotatedRcnn", "create_rotated_rcnn"),
    "segmentation.base": ("Segmenter",),
    "segmentation.network": ("create_segmenter",),
    "trunk.base": ("Trunk",),
    "networks.build": (
        "build",
        "create_autoencoder",
        "create_dense",
        "create_distiller",
        "create_model",
        "create_trunk",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SIZES",
    "Acceleration",
    "Classifier",
    "ClipDistiller",
    "DenseTrunk",
    "Dino",
    "LoadReport",
    "PixelAutoencoder",
    "Rcnn",
    "RotatedRcnn",
    "Segmenter",
    "Trunk",
    "build",
    "create_autoencoder",
    "create_dense",
    "create_dino",
    "create_distiller",
    "create_model",
    "create_rcnn",
    "create_rotated_rcnn",
    "create_segmenter",
    "create_trunk",
    "layer_ids",
    "load_model",
    "load_official",
    "load_weights",
    "no_weight_decay",
    "save_model",
    "to_official",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
