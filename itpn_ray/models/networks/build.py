"""Networks by name: one place that turns a name and a few choices into a module."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from itpn_ray.errors import ConfigError
from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.config import (
    FAST_ITPN,
    AutoencoderConfig,
    ClassifierConfig,
    DenseConfig,
    DenseHeadConfig,
    DistillerConfig,
    NetworkConfig,
    PyramidConfig,
    TrunkConfig,
    decoder_heads,
    find_size,
)
from itpn_ray.models.detection.dino.config import DinoConfig
from itpn_ray.models.detection.rcnn.config import RcnnConfig
from itpn_ray.models.networks.autoencoder import PixelAutoencoder
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.classifier import Classifier
from itpn_ray.models.networks.distillation import ClipDistiller
from itpn_ray.models.rotated.config import RotatedRcnnConfig
from itpn_ray.models.segmentation.config import EomtConfig, MaskDinoConfig, SegmenterConfig
from itpn_ray.models.trunk.base import Trunk
from itpn_ray.models.trunk.fast_itpn import FastItpn
from itpn_ray.models.trunk.itpn import Itpn

H = TypeVar("H", bound=DenseHeadConfig)


def build_trunk(config: TrunkConfig) -> Trunk:
    """A trunk with new weights from torch's generator."""
    return FastItpn(config) if config.family == FAST_ITPN else Itpn(config)


def build(config: NetworkConfig) -> Network:
    """The network that `config` describes, with new weights from torch's generator."""
    trunk = build_trunk(config.trunk)
    if isinstance(config, ClassifierConfig):
        return Classifier(config, trunk)
    if isinstance(config, DenseConfig):
        return DenseTrunk(config, trunk)
    if isinstance(config, AutoencoderConfig):
        return PixelAutoencoder(config, trunk)
    if isinstance(config, RcnnConfig):
        # Only here: torchvision's and transformers' parts are for detectors alone.
        from itpn_ray.models.detection.rcnn.network import Rcnn

        return Rcnn(config, DenseTrunk(config.dense, trunk))
    if isinstance(config, RotatedRcnnConfig):
        from itpn_ray.models.rotated.network import RotatedRcnn

        return RotatedRcnn(config, DenseTrunk(config.dense, trunk))
    if isinstance(config, DinoConfig):
        from itpn_ray.models.detection.dino.network import Dino

        return Dino(config, DenseTrunk(config.dense, trunk))
    if isinstance(config, SegmenterConfig):
        from itpn_ray.models.segmentation.pixelwise import PixelwiseSegmenter

        return PixelwiseSegmenter(config, DenseTrunk(config.dense, trunk))
    if isinstance(config, MaskDinoConfig):
        from itpn_ray.models.segmentation.mask_dino import MaskDino

        return MaskDino(config, DenseTrunk(config.dense, trunk))
    if isinstance(config, EomtConfig):
        from itpn_ray.models.segmentation.eomt import Eomt

        return Eomt(config, DenseTrunk(config.dense, trunk))
    assert isinstance(config, DistillerConfig)
    return ClipDistiller(config, trunk)


def trunk_config(name: str, **changes: Any) -> TrunkConfig:
    """The named trunk with some fields changed.

    `migration=r` is short for `acceleration=Acceleration(reduction="migration", ratio=r)`.

    Raises:
        ConfigError: no such name or field, or a value that does not fit.
    """
    trunk = find_size(name).trunk
    if ratio := changes.pop("migration", 0.0):
        changes["acceleration"] = Acceleration(reduction="migration", ratio=ratio)
    known = [field.name for field in dataclasses.fields(trunk)]
    for field in changes:
        if field not in known:
            raise ConfigError(field, changes[field], "no such field", f"Use one of {known}")
    return dataclasses.replace(trunk, **changes)


def create_trunk(name: str, *, image_size: int = 224, **changes: Any) -> Trunk:
    """A trunk by name.

    Args:
        name: one of `config.SIZES`, or nano, tiny, small, base, large for Fast-iTPN.
        image_size: side of the images that its position table is made for, in pixels (the paper
            trains at 224, Fast-iTPN-L at 256).
        changes: other fields of `TrunkConfig`, such as drop_path or acceleration, or migration.

    Raises:
        ConfigError: no such name, or a value that does not fit.
    """
    return build_trunk(trunk_config(name, image_size=image_size, **changes))


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: int = 224,
    norm_before_pool: bool = False,
    **changes: Any,
) -> Classifier:
    """A classifier by name, (B, 3, H, W) to logits (B, num_classes); see `create_trunk`."""
    trunk = trunk_config(name, image_size=image_size, **changes)
    config = ClassifierConfig(
        trunk=trunk, num_classes=num_classes, norm_before_pool=norm_before_pool
    )
    return Classifier(config, build_trunk(trunk))


def create_dense(
    name: str,
    *,
    image_size: int = 224,
    levels: int = 5,
    pyramid_width: int | None = None,
    pyramid_depth: int = 1,
    pool: str = "avg",
    join_trunk: bool = False,
    **changes: Any,
) -> DenseTrunk:
    """A trunk with its pyramid by name, images to stride -> map; see `DenseConfig`."""
    trunk = trunk_config(name, image_size=image_size, **changes)
    config = DenseConfig(
        trunk=trunk,
        pyramid=pyramid_config(name, pyramid_width, pyramid_depth),
        levels=levels,
        pool=pool,
        join_trunk=join_trunk,
    )
    return DenseTrunk(config, build_trunk(trunk))


def create_autoencoder(
    name: str,
    *,
    image_size: int = 224,
    pyramid_width: int | None = None,
    pyramid_depth: int = 2,
    decoder_width: int | None = None,
    decoder_depth: int | None = None,
    integral: bool = True,
    **changes: Any,
) -> PixelAutoencoder:
    """A pixel masked autoencoder by name; None takes the size's own value."""
    trunk = trunk_config(name, image_size=image_size, **changes)
    width, depth = find_size(name).decoder
    width = decoder_width or width
    config = AutoencoderConfig(
        trunk=trunk,
        pyramid=pyramid_config(name, pyramid_width, pyramid_depth),
        decoder_width=width,
        decoder_depth=decoder_depth or depth,
        decoder_heads=decoder_heads(width),
        integral=integral,
    )
    return PixelAutoencoder(config, build_trunk(trunk))


def create_distiller(
    name: str,
    *,
    teacher_dim: int,
    image_size: int = 224,
    pyramid_width: int | None = None,
    pyramid_depth: int = 1,
    **changes: Any,
) -> ClipDistiller:
    """A CLIP distillation network by name; `teacher_dim` is the width of the teacher's tokens."""
    trunk = trunk_config(name, image_size=image_size, **changes)
    config = DistillerConfig(
        trunk=trunk,
        pyramid=pyramid_config(name, pyramid_width, pyramid_depth),
        teacher_dim=teacher_dim,
    )
    return ClipDistiller(config, build_trunk(trunk))


def dense_head_config(
    kind: type[H],
    name: str,
    *,
    image_size: int = 224,
    pyramid_width: int | None = None,
    pyramid_depth: int = 1,
    **changes: Any,
) -> H:
    """The settings of a dense trunk with a head, by the name of the trunk.

    Args:
        kind: the settings' class.
        name: see `create_trunk`.
        image_size: side of the images that the trunk's position table is made for, in pixels;
            others resize it.
        pyramid_width: channels of the maps; None: the size's own.
        pyramid_depth: blocks after each upsampling.
        changes: other fields of ``kind`` and of `TrunkConfig`, or migration.

    Raises:
        ConfigError: no such name or field, or a value that does not fit.
    """
    # Of the changes, those of the head's own fields; the others are the trunk's.
    own = {field.name for field in dataclasses.fields(kind)}
    head = {field: changes.pop(field) for field in own & changes.keys()}
    return kind(
        trunk=trunk_config(name, image_size=image_size, **changes),
        pyramid=pyramid_config(name, pyramid_width, pyramid_depth),
        **head,
    )


def pyramid_config(name: str, width: int | None = None, depth: int = 1) -> PyramidConfig:
    """The pyramid of a named size; None takes the size's own width."""
    return PyramidConfig(width=width or find_size(name).pyramid_width, depth=depth)
