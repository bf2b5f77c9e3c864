"""Reference outputs of the authors' networks, and weights by the rule that they were run with."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

REFERENCE = Path(__file__).parent.parent / "data" / "reference"
State = dict[str, Tensor]


def draw(name: str, shape: Sequence[int]) -> Tensor:
    """The weight of an official name: normal numbers seeded by the name, scaled by its kind."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    numbers = generator.standard_normal(tuple(shape), dtype=np.float32)
    if name.endswith("weight") and len(shape) == 1:
        numbers = 1 + np.float32(0.1) * numbers
    elif len(shape) >= 2:
        numbers = numbers / np.float32(math.sqrt(math.prod(shape[1:])))
    else:
        numbers = np.float32(0.1) * numbers
    return torch.from_numpy(numbers)


@pytest.fixture(scope="session")
def reference() -> Callable[[str], tuple[State, State, dict[str, object]]]:
    """Reads a reference file: official weights, inputs and outputs, configuration."""

    def read(name: str) -> tuple[State, State, dict[str, object]]:
        with safe_open(REFERENCE / f"{name}.safetensors", framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(metadata["config"])
        shapes = json.loads(metadata["weights"])
        if "image" not in tensors:
            generator = np.random.Generator(np.random.PCG64(config["image_seed"]))
            shape = (config["batch"], 3, config["size"], config["size"])
            image = generator.standard_normal(shape, dtype=np.float32)
            tensors["image"] = torch.from_numpy(image)
        return {key: draw(key, shape) for key, shape in shapes.items()}, tensors, config

    return read
