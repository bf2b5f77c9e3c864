"""Small pre-trained networks that come with the package: ``zoo:NAME`` wherever weights are named.

`manifest.json` says of each what it was trained on, by which command, for how long and with what
result. The files hold float16; networks are built in float32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from itpn_ray.checks import nearest
from itpn_ray.errors import CheckpointError

SCHEME = "zoo:"
FOLDER = Path(__file__).parent
MANIFEST = FOLDER / "manifest.json"


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A network of the zoo."""

    network: str
    """Its name in the table of sizes."""
    task: str
    """What it was trained for."""
    data: str
    """Where its images come from, with their licence."""
    images: int
    """How many there were."""
    image_size: int
    """Side of its input, pixels."""
    epochs: float
    """Passes through the images."""
    seed: int
    """Of every random draw."""
    hours: float
    """What the training took."""
    hardware: str
    """Where."""
    command: str
    """What makes it again."""
    metrics: dict[str, float]
    """On held-out images, by name."""
    sha256: str
    """Of the file, hex."""


def entries() -> dict[str, ZooEntry]:
    """The networks of the zoo by their names."""
    return {name: ZooEntry(**entry) for name, entry in json.loads(MANIFEST.read_text()).items()}


def is_zoo(source: object) -> bool:
    """Whether a source of weights names a network of the zoo, such as ``zoo:nano_clothing10``."""
    return str(source).startswith(SCHEME)


def zoo_file(source: str) -> Path:
    """The weight file of ``zoo:NAME``.

    Raises:
        CheckpointError: there is no such network.
    """
    name = source.removeprefix(SCHEME)
    known = entries()
    if name not in known:
        raise CheckpointError(source, None, "is not in the zoo", nearest(name, known))
    return FOLDER / f"{name}.safetensors"
