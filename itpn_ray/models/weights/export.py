"""Networks for other programs: safetensors, torch.export and ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itpn_ray.errors import ConfigError
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.build import build
from itpn_ray.models.networks.classifier import Classifier
from itpn_ray.models.networks.images import read_images
from itpn_ray.models.weights.config import ExportConfig
from itpn_ray.models.weights.convert import open_network
from itpn_ray.models.weights.files import load_model, load_weights, save_model

OPSET = 18
_ONNX_LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
Outputs = tuple[Tensor, ...]
Run = Callable[[Tensor], Outputs]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written."""

    path: Path
    size_bytes: int
    """Of the file; it holds the weights."""
    outputs: tuple[str, ...]
    """Names of the outputs, in their order."""
    difference: float | None
    """Largest absolute difference of any output on the images given; None: not looked at."""
    scale: float | None
    """Largest absolute value of any output on them, to judge the difference by."""


class Flat(nn.Module):
    """A network whose outputs are a tuple: logits, or maps from fine to coarse.

    Args:
        network: a classifier or dense trunk.
    """

    def __init__(self, network: Classifier | DenseTrunk) -> None:
        super().__init__()
        self.network = network
        self.names = (
            ("logits",)
            if isinstance(network, Classifier)
            else tuple(f"stride{stride}" for stride in network.strides)
        )

    def forward(self, images: Tensor) -> Outputs:
        """Map (B, 3, H, W) to the outputs."""
        out = self.network(images)
        return (out,) if isinstance(out, Tensor) else tuple(out.values())


def export(config: ExportConfig) -> ExportReport:
    """Export the network of a file, and compare with it where images are given.

    Raises:
        CheckpointError: the file cannot be read.
        ConfigError: a pre-training network, or images that do not make the fixed batch.
        DataError: an image that cannot be read.
    """
    network = _network(config)
    flat = Flat(network).eval()
    size = network.config.trunk.image_size
    images = read_images(config.verify, size) if config.verify else None
    if images is not None and config.batch and len(images) % config.batch:
        raise ConfigError(
            "verify",
            f"{len(images)} images",
            f"the program takes {config.batch} at a time",
            f"give a multiple of {config.batch}, or export with batch 0",
        )
    path = Path(config.out)
    write, read = _FORMATS[path.suffix]
    _check_libraries(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(flat, torch.zeros(config.batch or 2, 3, size, size), part, config.batch == 0)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    difference = scale = None
    if images is not None:
        parts = images.split(config.batch or len(images))
        difference, scale = compare(flat, read(path), parts)
    return ExportReport(
        path=path,
        size_bytes=path.stat().st_size,
        outputs=flat.names,
        difference=difference,
        scale=scale,
    )


def _check_libraries(path: Path) -> None:
    if path.suffix == ".onnx":
        missing = [name for name in _ONNX_LIBRARIES if find_spec(name) is None]
        if missing:
            raise ConfigError(
                "out",
                str(path),
                f"ONNX needs {', '.join(missing)}",
                'install them with pip install "itpn-ray[export]"',
            )


@torch.no_grad()
def compare(ours: nn.Module, theirs: Run, batches: Sequence[Tensor]) -> tuple[float, float]:
    """Largest absolute difference of two networks' outputs, and ours' largest absolute value."""
    difference = scale = 0.0
    for images in batches:
        for a, b in zip(ours(images), theirs(images), strict=True):
            difference = max(difference, (a - b).abs().max().item())
            scale = max(scale, a.abs().max().item())
    return difference, scale


def _network(config: ExportConfig) -> Classifier | DenseTrunk:
    """The file's network at the size and acceleration asked for."""
    network = open_network(config.file)
    if not isinstance(network, Classifier | DenseTrunk):
        raise ConfigError(
            "file",
            config.file,
            f"holds neither a classifier nor a dense network ({network.config.kind})",
            "fine-tune it first, or load its weights into one of them",
        )
    size = config.image_size
    if size is not None and size != network.config.trunk.image_size:
        trunk = replace(network.config.trunk, image_size=size)
        resized = build(replace(network.config, trunk=trunk)).eval()
        load_weights(resized, network.state_dict())
        assert isinstance(resized, Classifier | DenseTrunk)
        network = resized
    if config.migration is not None:
        network.set_migration(config.migration)
    return network


# --- one pair of functions a format: write the network, and run what was written ------------------


def _write_safetensors(flat: Flat, example: Tensor, path: Path, any_batch: bool) -> None:
    del example, any_batch
    save_model(flat.network, path)


def _read_safetensors(path: Path) -> Run:
    network = load_model(path)
    assert isinstance(network, Classifier | DenseTrunk)
    return Flat(network)


def _write_torch(flat: Flat, example: Tensor, path: Path, any_batch: bool) -> None:
    torch.export.save(_program(flat, example, any_batch), path)


def _program(flat: Flat, example: Tensor, any_batch: bool) -> torch.export.ExportedProgram:
    shapes = {"images": {0: torch.export.Dim("batch")}} if any_batch else None
    with torch.no_grad():
        return torch.export.export(flat, (example,), dynamic_shapes=shapes)


def _read_torch(path: Path) -> Run:
    module: Any = torch.export.load(path).module()
    return module


def _write_onnx(flat: Flat, example: Tensor, path: Path, any_batch: bool) -> None:
    torch.onnx.export(
        _program(flat, example, any_batch),
        (),
        path,
        input_names=["images"],
        output_names=list(flat.names),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Outputs:
        return tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))

    return run


_FORMATS: dict[str, tuple[Callable[[Flat, Tensor, Path, bool], None], Callable[[Path], Run]]] = {
    ".safetensors": (_write_safetensors, _read_safetensors),
    ".pt2": (_write_torch, _read_torch),
    ".onnx": (_write_onnx, _read_onnx),
}
