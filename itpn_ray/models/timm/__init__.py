"""The networks under timm's names: ``import itpn_ray.models.timm`` registers them.

Nothing else does: `itpn_ray.models` leaves timm alone, whose import takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from itpn_ray.errors import ConfigError
from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.config import SIZES, crop_fraction
from itpn_ray.models.networks.build import create_model
from itpn_ray.models.networks.classifier import Classifier

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": None,
            "crop_pct": crop_fraction(224),
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "trunk.embed",
            "classifier": "head",
        }
        for name in SIZES
    }
)


def _build(
    *,
    name: str,
    num_classes: int = 1000,
    img_size: int = 224,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    **changes: Any,
) -> Classifier:
    """A classifier from timm's arguments; `changes` are fields of `TrunkConfig`, or migration.

    ``acceleration`` may be a mapping, as a folder of the Hugging Face Hub has it in its JSON.
    """
    for field, value, only in (("in_chans", in_chans, 3), ("global_pool", global_pool, "avg")):
        if value != only:
            raise ConfigError(field, value, f"these networks have {only!r}", "Leave it out")
    if isinstance(changes.get("acceleration"), Mapping):
        changes["acceleration"] = Acceleration(**changes["acceleration"])
    return create_model(
        name, num_classes=num_classes, image_size=img_size, drop_path=drop_path_rate, **changes
    )


def _entry(name: str) -> Callable[..., Classifier]:
    """The function that timm calls for `name`."""

    def create(pretrained: bool = False, **kwargs: Any) -> Classifier:
        # timm names whatever it builds after the variant; ours also needs to know its name.
        return build_model_with_cfg(
            _build,
            name,
            pretrained,
            name=name,
            # With "getter" timm takes maps from `forward_intermediates`.
            feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
            **kwargs,
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name}, see `itpn_ray.models.create_model`."
    create.__module__ = __name__
    return create


for _name in SIZES:
    # timm looks a network's function up in the module that registers it.
    globals()[_name] = register_model(_entry(_name))
