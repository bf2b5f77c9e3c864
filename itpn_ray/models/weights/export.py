"""Networks for other programs: safetensors, torch.export, ONNX, the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.formatting import number_of
from itpn_ray.models.acceleration.config import Accelerated
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.classifier import Classifier
from itpn_ray.models.networks.dense_head import DenseHead
from itpn_ray.models.weights.card import write_card
from itpn_ray.models.weights.config import ExportConfig
from itpn_ray.models.weights.files import build_network, load_model, save_model
from itpn_ray.models.weights.hub_folder import README, check_folder, write_folder
from itpn_ray.models.weights.programs import (
    Outputs,
    Program,
    input_description,
    metadata_of,
    program_of,
    read_inputs,
    resized,
)
from itpn_ray.models.weights.raw_files import HUB_WEIGHTS
from itpn_ray.models.weights.read import Weights, read_weights

OPSET = 18
ENTRY = "itpn_ray"  # of the input's description in a program's own metadata
_ONNX_LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
Run = Callable[..., Outputs]
Read = Callable[[Path, ExportConfig], Run]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written."""

    path: Path
    card: Path
    """What it is, and the Python that uses it, for people; ``PATH.md``, of a folder README.md."""
    size_bytes: int
    """Of the file; it holds the weights."""
    outputs: tuple[str, ...]
    """Names of the outputs, in their order."""
    note: str
    """Which part of the network was exported, where it was not the whole."""
    remarks: tuple[str, ...]
    """What is to be said of the file, see `Weights`."""
    difference: float | None
    """Largest absolute difference of any output on the images given; None: not looked at."""
    scale: float | None
    """Largest absolute value of any output on them, to judge the difference by."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A network, its program, and what is known of its file."""

    network: Network
    program: Program
    weights: Weights
    batch: int
    """Of the program; 0: any."""


def export(config: ExportConfig) -> ExportReport:
    """Export the network of a file, and compare with it where images are given.

    Raises:
        CheckpointError: the file cannot be read.
        ConfigError: images that do not make the fixed batch, or a ratio for a network without.
        DataError: an image that cannot be read.
    """
    weights = read_weights(config.file, key=config.key)
    network = _network(config, weights)
    program = program_of(network, config.image_size, processing=config.processing)
    inputs = read_inputs(program, network, config.verify) if config.verify else None
    if inputs is not None and config.batch and len(inputs[0]) % config.batch:
        raise ConfigError(
            "verify",
            number_of(len(inputs[0]), "image"),
            f"the program takes {config.batch} at a time",
            f"Give a multiple of {config.batch}, or export with batch 0",
        )
    job = _Job(network=network, program=program, weights=weights, batch=config.batch)
    path, card, read = _write_folder(job, config) if config.is_folder else _write(job, config)
    difference = scale = None
    if inputs is not None:
        difference, scale = compare(program, read(path, config), inputs, config.batch)
    return ExportReport(
        path=path,
        card=card,
        size_bytes=path.stat().st_size,
        outputs=program.outputs,
        note="" if path.suffix == ".safetensors" else program.note,
        remarks=weights.remarks,
        difference=difference,
        scale=scale,
    )


def _write(job: _Job, config: ExportConfig) -> tuple[Path, Path, Read]:
    """Write the file, whole or not at all: itself, its card, and how it is read again."""
    path = Path(config.out)
    write, read = _FORMATS[path.suffix]
    if path.suffix == ".onnx":
        check_onnx_libraries("out", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(job, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path, write_card(path, job.network, job.program, job.weights.metadata), read


def _write_folder(job: _Job, config: ExportConfig) -> tuple[Path, Path, Read]:
    """Write the folder: its weight file, its card, and how it is read again."""
    folder = Path(config.out).absolute()  # whose name the card has, also where it is "."
    check_folder(folder, job.network)
    assert isinstance(job.network, Classifier)
    write_folder(folder, job.network, job.program, job.weights.metadata)
    return folder / HUB_WEIGHTS, folder / README, _read_safetensors


def check_onnx_libraries(field: str, value: str) -> None:
    """Refuse a setting that needs ONNX where a library for it is missing.

    Raises:
        ConfigError: names the setting and the libraries.
    """
    missing = [name for name in _ONNX_LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            field,
            value,
            f"ONNX needs {', '.join(missing)}",
            'Install them with pip install "itpn-ray[export]"',
        )


@torch.no_grad()
def compare(program: Program, theirs: Run, inputs: Outputs, batch: int) -> tuple[float, float]:
    """Largest absolute difference of two programs' outputs, and ours' largest absolute value.

    Args:
        program: ours.
        theirs: what was exported.
        inputs: of n images.
        batch: images at a time; 0: all.
    """
    difference = scale = 0.0
    for part in zip(*(tensor.split(batch or len(tensor)) for tensor in inputs), strict=True):
        for a, b in zip(program.module(*part), theirs(*part), strict=True):
            difference = max(difference, (a - b).abs().max().item())
            scale = max(scale, a.abs().max().item())
    return difference, scale


def _network(config: ExportConfig, weights: Weights) -> Network:
    """The file's network at the size and acceleration asked for."""
    network, _ = build_network(weights)
    size = config.image_size
    if size is not None and size != network.image_size and not isinstance(network, DenseHead):
        network = resized(network, size, weights.metadata)
    if config.migration is not None:
        if not isinstance(network, Accelerated):
            raise ConfigError(
                "migration",
                config.migration,
                f"is for networks that have been fine-tuned, not for this {network.config.kind}",
                "Leave it out",
            )
        network.set_migration(config.migration)
    return network


# --- one pair of functions a format: write the network, and run what was written ------------------


def _write_safetensors(job: _Job, path: Path) -> None:
    save_model(job.network, path, metadata_of(job.network, job.weights.metadata))


def _read_safetensors(path: Path, config: ExportConfig) -> Run:
    return program_of(load_model(path), config.image_size).module


def _write_torch(job: _Job, path: Path) -> None:
    about = {ENTRY: input_description(job.program, job.network)}
    torch.export.save(_exported(job), path, extra_files=about)


def _exported(job: _Job) -> torch.export.ExportedProgram:
    program = job.program
    shapes = None
    if not job.batch:
        batch = torch.export.Dim("batch")
        shapes = {name: {0: batch} for name in program.inputs}
    with torch.no_grad():
        return torch.export.export(
            # A batch of 1 would be taken for a constant: torch.export gives sizes 0 and 1 their own
            # programs.
            program.module,
            program.example(job.batch or 2),
            dynamic_shapes=shapes,
        )


def _read_torch(path: Path, config: ExportConfig) -> Run:
    del config
    module: Any = torch.export.load(path).module()
    return module


def _write_onnx(job: _Job, path: Path) -> None:
    written: Any = torch.onnx.export(
        _exported(job),
        (),
        input_names=list(job.program.inputs),
        output_names=list(job.program.outputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    written.model.metadata_props[ENTRY] = input_description(job.program, job.network)
    # One file: a second one beside it is lost at the first copy.
    written.save(path, external_data=False)


def _read_onnx(path: Path, config: ExportConfig) -> Run:
    import onnxruntime

    del config
    # On the CPU, where both compute in float32 and the difference is rounding alone.
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Outputs:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return tuple(map(torch.from_numpy, session.run(None, arrays)))

    return run


_FORMATS: dict[str, tuple[Callable[[_Job, Path], None], Read]] = {
    ".safetensors": (_write_safetensors, _read_safetensors),
    ".pt2": (_write_torch, _read_torch),
    ".onnx": (_write_onnx, _read_onnx),
}
