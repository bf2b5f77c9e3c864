"""Speeds of networks as ONNX graphs under onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from itpn_ray.errors import ConfigError
from itpn_ray.evaluation.speed import Speed, seconds_in_turn
from itpn_ray.models import load_model
from itpn_ray.models.weights.config import ExportConfig
from itpn_ray.models.weights.export import export
from itpn_ray.models.weights.programs import program_of

Key = TypeVar("Key", bound=Hashable)


def onnx_speeds(files: Mapping[Key, Path], *, batch: int, threads: int) -> dict[Key, Speed]:
    """Images a second of several networks, exported and measured in turn.

    Args:
        files: weight files by any key; each graph is written beside its file.
        batch: images a forward pass.
        threads: compute threads.

    Raises:
        ConfigError: a network has no graph of its own, see `program_of`.
    """
    # An optional dependency, which this target alone needs.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    calls = {}
    for key, file in files.items():
        graph = file.with_suffix(".onnx")
        report = export(ExportConfig(file=str(file), out=str(graph)))
        # A note tells that the graph ends before the network does.
        if report.note:
            raise ConfigError(
                "target", "onnx", f"would time only {report.note}", "Leave the option out"
            )
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        names = [entry.name for entry in session.get_inputs()]
        inputs = program_of(load_model(file)).example(batch)
        feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        calls[key] = partial(session.run, None, feeds)
    return {key: Speed.of(batch, seconds) for key, seconds in seconds_in_turn(calls).items()}
