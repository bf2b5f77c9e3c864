"""A classifier as a folder of the Hugging Face Hub, in the layout that timm reads.

``config.json`` names the architecture, what differs from it, the classes and how images are made;
``model.safetensors`` is a weight file of this package, so that every way into weights reads the
folder too; ``README.md`` is the model card. timm builds the network once
`itpn_ray.models.timm` is imported: ``timm.create_model("local-dir:FOLDER", pretrained=True)``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itpn_ray.errors import ConfigError
from itpn_ray.models.config import SIZES, TrunkConfig
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.classifier import Classifier
from itpn_ray.models.weights.card import card_of, load_line
from itpn_ray.models.weights.files import save_model
from itpn_ray.models.weights.programs import Program, metadata_of
from itpn_ray.models.weights.raw_files import HUB_WEIGHTS

CONFIG, README = "config.json", "README.md"
_FILES = (HUB_WEIGHTS, README, CONFIG)
"""In the order in which they are brought to their place: with a config the folder is whole."""
_HEAD = """---
library_name: itpn_ray
pipeline_tag: image-classification
tags:
- image-classification
- timm
---
"""


def check_folder(path: Path, network: Network) -> None:
    """Refuse, before anything is written, what cannot be such a folder.

    Raises:
        ConfigError: the network is no classifier with a head, or the folder holds something else.
    """
    if not isinstance(network, Classifier) or not network.num_classes:
        raise ConfigError(
            "format",
            "huggingface",
            f"is for classifiers with a head, and this is a {network.config.kind}",
            "Write a .safetensors, .pt2 or .onnx file",
        )
    strangers = sorted(set(os.listdir(path)) - set(_FILES)) if path.is_dir() else []
    if path.is_file() or strangers:
        what = f"holds something else ({strangers[0]})" if strangers else "is a file"
        raise ConfigError("out", str(path), what, "Give a new folder")


def write_folder(
    path: Path, network: Classifier, program: Program, metadata: Mapping[str, str]
) -> None:
    """Write the three files; those of an earlier export are replaced, each whole.

    Args:
        path: the folder, which `check_folder` has found fit.
        network: the classifier.
        program: how it is fed.
        metadata: of its weights.
    """
    path.mkdir(parents=True, exist_ok=True)
    # Removed first: a folder without it is not whole, and is not taken for one.
    (path / CONFIG).unlink(missing_ok=True)
    save_model(network, path / HUB_WEIGHTS, metadata_of(network, metadata))
    texts = {
        README: _readme(path, network, program, metadata),
        CONFIG: json.dumps(hub_config(network), indent=2) + "\n",
    }
    for name, text in texts.items():
        part = path / f".{name}.{os.getpid()}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, path / name)


def hub_config(network: Classifier) -> dict[str, Any]:
    """What ``config.json`` holds: the fields that timm reads of a folder."""
    name, changes = _architecture(network)
    described = network.pretrained_cfg
    names = list(network.classes)
    return {
        "architecture": name,
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "global_pool": "avg",
        **({"label_names": names} if names else {}),
        "model_args": changes,
        "pretrained_cfg": {
            **{key: described[key] for key in ("crop_pct", "crop_mode", "interpolation")},
            **{key: list(described[key]) for key in ("input_size", "mean", "std")},
            "num_classes": network.num_classes,
            "pool_size": None,
            "first_conv": "trunk.embed",
            "classifier": "head",
        },
    }


def _architecture(network: Classifier) -> tuple[str, dict[str, Any]]:
    """The size that the network is nearest to, and the arguments that make it of that size.

    Stochastic depth is left out: it acts in training alone, and timm has its own argument for it.
    """
    trunk = network.config.trunk
    differing = {name: _differences(trunk, size.trunk) for name, size in SIZES.items()}
    name = min(differing, key=lambda name: len(differing[name]))
    changes = {"img_size": trunk.image_size, **differing[name]}
    if network.config.norm_before_pool:
        changes["norm_before_pool"] = True
    return name, changes


def _differences(trunk: TrunkConfig, size: TrunkConfig) -> dict[str, Any]:
    """The fields of a trunk that differ from those of a size, as JSON has them."""
    own, usual = dataclasses.asdict(trunk), dataclasses.asdict(size)
    return {
        field: value
        for field, value in own.items()
        if value != usual[field] and field not in ("image_size", "drop_path")
    }


def _readme(path: Path, network: Classifier, program: Program, metadata: Mapping[str, str]) -> str:
    """The model card; its Python runs beside the folder."""
    card = card_of(path / HUB_WEIGHTS, network, program, metadata, title=path.name)
    # From the folder and not from the file in it, as a user of the Hub has it.
    code = card.replace(load_line(HUB_WEIGHTS), load_line(path.name))
    timm = (
        "With timm, or from the Hub with `hf-hub:OWNER/NAME`:\n\n```python\nimport timm\n\n"
        "import itpn_ray.models.timm  # registers the networks\n\n"
        f'model = timm.create_model("local-dir:{path.name}", pretrained=True).eval()\n```\n'
    )
    return f"{_HEAD}\n{code}\n{timm}"
