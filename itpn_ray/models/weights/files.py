"""Weight files: safetensors with a JSON entry that says how to build the network again.

A file is written whole or not at all, and nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.models.config import ClassifierConfig, PyramidConfig
from itpn_ray.models.layers.position import resize_relative_table, resize_table, table_side
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.build import build
from itpn_ray.models.networks.configs import network_from_dict, network_to_dict

METADATA_KEY = "itpn_ray"
ENOUGH = 0.95  # share of tensors below which loading refuses
# Parts that fine-tuning makes anew: a classifier's head and norm, and what token gathering learns.
# Of a detector all is new but trunk and pyramid.
_NEW = ("head.", "norm.", "trunk.gathering.")
_KEPT = ("trunk.", "pyramid.")
_NEW_TABLES = ".relative"  # of offsets, zero at first: iTPN learns them in fine-tuning only
# A trunk's tensors by our names, and by the authors' where `convert` found no place for them.
_TRUNK = ("trunk.", "blocks.", "patch_embed.")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of each tensor, by the module's names (for `unexpected`: the file's)."""

    loaded: tuple[str, ...]
    """Taken as they were or resized."""
    missing: tuple[str, ...]
    """In the module, not in the file: left as they were."""
    unexpected: tuple[str, ...]
    """In the file, without a place in the module."""
    resized: tuple[str, ...]
    """Position tables that were resized; they are among `loaded`."""
    mismatched: tuple[str, ...] = ()
    """In both, with shapes that do not fit; they are among `missing`."""
    share: float
    """Loaded tensors over those that should have been, from 0 to 1; see `load_weights`."""

    def __str__(self) -> str:
        parts = [f"loaded {len(self.loaded)} tensors ({self.share:.1%})"]
        for name in ("resized", "missing", "mismatched", "unexpected"):
            names = getattr(self, name)
            if names:
                shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
                parts.append(f"{name} {len(names)}: {shown}")
        return "; ".join(parts)


def save_model(
    module: Network, path: str | os.PathLike[str], extra: Mapping[str, str] | None = None
) -> None:
    """Write a network of this package so that `load_model` needs nothing but the file.

    Args:
        module: the network.
        path: file to write; its folder is made. An older file is replaced only once the new one
            is complete.
        extra: further metadata, such as the class names.
    """
    path = Path(path)
    metadata = dict(extra or {})
    metadata[METADATA_KEY] = json.dumps(network_to_dict(module.config), sort_keys=True)
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part, metadata=metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_model(path: str | os.PathLike[str]) -> Network:
    """The network that `save_model` wrote, on the CPU, in eval mode.

    Raises:
        CheckpointError: no such file, not written by `save_model`, damaged, or not fitting.
    """
    metadata, tensors = read_file(path)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            str(path),
            None,
            "the file does not say which network it holds",
            "load it with load_weights into a network you made, or with load_official if it is "
            "one of the authors' files",
        )
    try:
        module = build(network_from_dict(json.loads(metadata[METADATA_KEY])))
        module.load_state_dict(tensors)
    except (ConfigError, RuntimeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            str(path), None, f"its tensors and its description disagree ({error})", "export it anew"
        ) from error
    return module.eval()


def load_weights(
    module: Network,
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    partial: bool = False,
    pyramid: bool = True,
) -> LoadReport:
    """Copy weights of the same names from a file or state dict, e.g. autoencoder -> detector.

    Position tables made for another image size are resized. The share that must be reached
    counts tensors on both sides: those of the module that the source has, not asking for what
    fine-tuning makes anew (head, norm, gathering); and those of the source's trunk that the module
    has a place for, so that e.g. layer scales are never lost in silence.

    Args:
        module: a network of this package.
        source: a file that `save_model` wrote, or a state dict with this package's names.
        partial: load what fits even if it is less than 95 %.
        pyramid: whether the pyramid's weights are taken too (paper Table 8 compares).

    Raises:
        CheckpointError: the file cannot be read, or less than 95 % fits and `partial` is False;
            the module is then unchanged.
    """
    if isinstance(source, Mapping):
        tensors, subject = source, "state dict"
    else:
        tensors, subject = read_file(source)[1], str(source)
    return place(module, tensors, subject=subject, partial=partial, pyramid=pyramid)


def place(
    module: Network,
    tensors: Mapping[str, Tensor],
    *,
    subject: str,
    partial: bool,
    pyramid: bool = True,
) -> LoadReport:
    """Copy `tensors` into `module` and report; see `load_weights`."""
    names = _names(module, tensors)  # the module's name -> the file's
    left = () if pyramid else (f"{module.prefix}pyramid.",)
    own = module.state_dict()
    fitting: dict[str, Tensor] = {}
    resized, mismatched = [], []
    for name in own.keys() & names.keys():
        if name.startswith(left):
            continue
        given = tensors[names[name]]
        tensor = _resize(module, name, given, own[name])
        if tensor is None:
            mismatched.append(name)
            continue
        if tensor is not given:
            resized.append(name)
        fitting[name] = tensor
    wanted = [name for name in own if _is_wanted(module, name) and not name.startswith(left)]
    offered = [name for name in names if name.removeprefix(module.prefix).startswith(_TRUNK)]
    report = LoadReport(
        loaded=tuple(sorted(fitting)),
        missing=tuple(name for name in own if name not in fitting),
        unexpected=tuple(names[name] for name in names if name not in own),
        resized=tuple(sorted(resized)),
        mismatched=tuple(sorted(mismatched)),
        share=min(_share(wanted, fitting), _share(offered, fitting)),
    )
    if report.share < ENOUGH and not partial:
        raise CheckpointError(
            subject,
            f"{report.share:.0%} of the tensors fit",
            f"at least {ENOUGH:.0%} must ({report})",
            "use the network that the file was made for, or allow a partial load "
            "(--model.partial-init)",
        )
    module.load_state_dict(fitting, strict=False)
    return report


def _names(module: Network, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """`module`'s name of each tensor -> the name it has, whichever kind of network it is from."""
    held = "trunk." if any(name.startswith("trunk.trunk.") for name in tensors) else ""
    names = {}
    for name in tensors:
        bare = name.removeprefix(held)
        names[module.prefix + bare if bare.startswith(_KEPT) else name] = name
    return names


def _is_wanted(module: Network, name: str) -> bool:
    """Whether another network's file should have this tensor: fine-tuning does not make it anew."""
    bare = name.removeprefix(module.prefix)
    shared = name.startswith(module.prefix) and not bare.startswith(_NEW)
    return shared and not name.endswith(_NEW_TABLES)


def _share(names: list[str], fitting: Mapping[str, Tensor]) -> float:
    return sum(name in fitting for name in names) / len(names) if names else 0.0


def _resize(module: Network, name: str, tensor: Tensor, own: Tensor) -> Tensor | None:
    """`tensor` in the shape of `own`: itself, a resized position table, or None if neither."""
    if tensor.shape == own.shape:
        return tensor
    last = name.rsplit(".", 1)[-1]
    if tensor.ndim != own.ndim or tensor.shape[-1] != own.shape[-1]:
        return None
    if last == "position" and table_side(tensor) ** 2 == tensor.shape[1]:
        side = table_side(own)
        return resize_table(tensor.float(), (side, side), module.body.position_offset)
    if last == "decoder_position" and table_side(tensor) ** 2 == tensor.shape[1]:
        side = table_side(own)
        return resize_table(tensor.float(), (side, side), 0.0)
    if last == "relative":
        side = (round(own.shape[0] ** 0.5) + 1) // 2
        return resize_relative_table(tensor.float(), (side, side))
    return None


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What `save_model` was given as `extra`, and its own entry, from a safetensors file's head.

    Raises:
        CheckpointError: no such file, or not safetensors.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def read_pyramid(path: str | os.PathLike[str]) -> PyramidConfig | None:
    """The pyramid of the network in a weight file; None where it has none or does not say.

    Raises:
        CheckpointError: no such file, not safetensors, or its description is damaged.
    """
    told = read_metadata(path).get(METADATA_KEY)
    if told is None:
        return None
    try:
        config = network_from_dict(json.loads(told))
    except (ConfigError, json.JSONDecodeError) as error:
        raise CheckpointError(
            str(path), None, f"its description is damaged ({error})", "export it anew"
        ) from error
    return None if isinstance(config, ClassifierConfig) else config.pyramid


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        CheckpointError: no such file, or not safetensors.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return dict(file.metadata() or {}), tensors


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A safetensors file, its errors told as CheckpointError."""
    _check_there(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            str(path), None, f"not a whole safetensors file ({error})", "copy or export it anew"
        ) from error


def _check_there(path: str | os.PathLike[str]) -> None:
    if not os.path.isfile(path):
        raise CheckpointError(str(path), None, "no such file", "check the path")


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """What a .pt or .pth file holds, tensors and plain data only: nothing in it is executed.

    Raises:
        CheckpointError: no such file, damaged, or it holds objects that would run code.
    """
    _check_there(path)
    try:
        with torch.serialization.safe_globals([Namespace]):  # their command line's arguments
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or unsafe pickles
        raise CheckpointError(
            str(path),
            None,
            f"cannot be read as plain tensors ({str(error).splitlines()[0]})",
            "convert it to safetensors with tools that you trust",
        ) from error
