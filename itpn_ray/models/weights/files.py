"""Weight files: safetensors with a JSON entry that says how to build the network again.

A file is written whole or not at all, and nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from itpn_ray.errors import CheckpointError
from itpn_ray.formatting import number_of
from itpn_ray.models.config import ClassifierConfig, PyramidConfig
from itpn_ray.models.layers.position import resize_relative_table, resize_table, table_side
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.build import build
from itpn_ray.models.networks.configs import network_to_dict
from itpn_ray.models.weights.read import METADATA_KEY, Source, Weights, read_weights

ENOUGH = 0.95  # fraction of tensors below which loading refuses
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
    fraction: float
    """Loaded tensors over those that should have been, from 0 to 1; see `load_weights`."""
    remarks: tuple[str, ...] = ()
    """What is to be said of the file, see `Weights`."""

    def __str__(self) -> str:
        parts = [*self.remarks]
        parts.append(f"loaded {number_of(len(self.loaded), 'tensor')} ({self.fraction:.1%})")
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
    # safetensors refuses views; a state dict may hold some.
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # With the process's number: two that write the same file must not share a half.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part, metadata=metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_model(path: str | os.PathLike[str], *, key: str | None = None) -> Network:
    """The network in a weight file of any origin, on the CPU, in eval mode.

    Args:
        path: a file of `save_model`, a run's folder, a saved state dict of this package, or one of
            the authors' checkpoints.
        key: see `read_weights`; a warning says which one was taken of several.

    Raises:
        CheckpointError: no such file, no network of either, damaged, or not fitting.
    """
    weights = read_weights(path, key=key)
    for remark in weights.remarks:
        warnings.warn(f"{weights.subject}: {remark}", stacklevel=2)
    return build_network(weights)[0]


def load_official(
    source: Source,
    *,
    key: str | None = None,
    num_heads: int | None = None,
    image_size: int | None = None,
    decoder_num_heads: int | None = None,
    partial: bool = False,
) -> tuple[Network, LoadReport]:
    """`load_model` for the authors' checkpoints, with what their names and shapes cannot show.

    Args:
        source: a weight file or a state dict, wrapped or not.
        key: see `read_weights`.
        num_heads: of stage 3; None: from the relative position tables, else as the published size
            of this width and depth has, else width / 64.
        image_size: pixels a side to build the network for; None: as the position table is.
            Another size than the table's resizes it bicubically.
        decoder_num_heads: of a pixel decoder; None: 16, the authors' number, or with decoders
            narrower than 256 one for every 16 channels.
        partial: accept a file that lacks more than 5 % of the tensors.

    Returns:
        The network on the CPU in eval mode (a classifier, `DenseTrunk`, `PixelAutoencoder` or
        `ClipDistiller`) and what became of each tensor.

    Raises:
        CheckpointError: unreadable, no network of the authors or of this package, or less than
            95 % fits.
    """
    weights = read_weights(
        source,
        key=key,
        num_heads=num_heads,
        image_size=image_size,
        decoder_num_heads=decoder_num_heads,
    )
    return build_network(weights, partial=partial)


def build_network(weights: Weights, *, partial: bool = False) -> tuple[Network, LoadReport]:
    """The network that weights were made for, with them, in eval mode; and what became of each.

    Raises:
        CheckpointError: the tensors do not fit the description or, where there is none, fill less
            than 95 % (unless `partial`), are a detector's or of a task of another package.
    """
    if not weights.described and "task" in weights.metadata:
        raise CheckpointError(
            weights.subject,
            weights.metadata["task"],
            "is a task of another package, and the file holds a network of its own",
            "Use `itpn-ray evaluate` or predict, or load it as that package does",
        )
    module = build(weights.config)
    if weights.described:
        report = _fill(module, weights)
    else:
        if "trunk.trunk.position" in weights.tensors:
            raise CheckpointError(
                weights.subject,
                None,
                "holds a detector's tensors without the description that builds it",
                "Write it with save_model, or load it into a detector with load_weights",
            )
        report = place(module, weights.tensors, subject=weights.subject, partial=partial)
    try:
        # Other files may use these names for something else.
        module.remember(weights.metadata if weights.described else {})
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            weights.subject, None, f"its metadata is damaged ({error})", "Export it anew"
        ) from error
    return module.eval(), replace(report, remarks=weights.remarks)


def _fill(module: Network, weights: Weights) -> LoadReport:
    """Load all tensors into the network that the file describes."""
    try:
        module.load_state_dict(weights.tensors)
    except RuntimeError as error:
        raise CheckpointError(
            weights.subject,
            None,
            f"its tensors and its description disagree ({error})",
            "Export it anew",
        ) from error
    names = tuple(weights.tensors)
    return LoadReport(loaded=names, missing=(), unexpected=(), resized=(), fraction=1.0)


def load_weights(
    module: Network,
    source: Source,
    *,
    key: str | None = None,
    partial: bool = False,
    pyramid: bool = True,
) -> LoadReport:
    """Copy weights of any origin into a network, e.g. of an autoencoder into a detector.

    Position tables made for another image size are resized. The fraction that must be reached
    counts tensors on both sides: those of the module that the source has, not asking for what
    fine-tuning makes anew (head, norm, gathering); and those of the source's trunk that the module
    has a place for, so that e.g. layer scales are never lost in silence.

    Args:
        module: a network of this package.
        source: a weight file, a run's folder or a state dict; see `read_weights`.
        key: see `read_weights`.
        partial: load what fits even if it is less than 95 %.
        pyramid: whether the pyramid's weights are taken too (paper Table 8 compares).

    Raises:
        CheckpointError: the file cannot be read, or less than 95 % fits and `partial` is False;
            the module is then unchanged.
    """
    weights = read_weights(source, key=key)
    report = place(
        module, weights.tensors, subject=weights.subject, partial=partial, pyramid=pyramid
    )
    return replace(report, remarks=tuple(filter(None, [weights.choice])))


def read_pyramid(path: str | os.PathLike[str], key: str | None = None) -> PyramidConfig | None:
    """The pyramid of the network in a weight file; None where it has none.

    Raises:
        CheckpointError: see `read_weights`.
    """
    config = read_weights(path, key=key).config
    return None if isinstance(config, ClassifierConfig) else config.pyramid


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
        # `left` may be empty: then no name begins with any of it.
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
    expected = [name for name in own if _is_expected(module, name) and not name.startswith(left)]
    # The other way round too: a file whose trunk has more than the module lost something.
    offered = [name for name in names if name.removeprefix(module.prefix).startswith(_TRUNK)]
    report = LoadReport(
        loaded=tuple(sorted(fitting)),
        missing=tuple(name for name in own if name not in fitting),
        unexpected=tuple(names[name] for name in names if name not in own),
        resized=tuple(sorted(resized)),
        mismatched=tuple(sorted(mismatched)),
        fraction=min(_fraction(expected, fitting), _fraction(offered, fitting)),
    )
    if report.fraction < ENOUGH and not partial:
        raise CheckpointError(
            subject,
            f"{report.fraction:.0%} of the tensors fit",
            f"at least {ENOUGH:.0%} must ({report})",
            "Use the network that the file was made for, or allow a partial load "
            "(--model.partial-init)",
        )
    # Last, so that a refused file leaves the module as it was.
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


def _is_expected(module: Network, name: str) -> bool:
    """Whether another network's file should have this tensor: fine-tuning does not make it anew."""
    bare = name.removeprefix(module.prefix)
    shared = name.startswith(module.prefix) and not bare.startswith(_NEW)
    return shared and not name.endswith(_NEW_TABLES)


def _fraction(names: list[str], fitting: Mapping[str, Tensor]) -> float:
    return sum(name in fitting for name in names) / len(names) if names else 0.0


def _resize(module: Network, name: str, tensor: Tensor, own: Tensor) -> Tensor | None:
    """`tensor` in the shape of `own`: itself, a resized position table, or None if neither."""
    if tensor.shape == own.shape:
        return tensor
    last = name.rsplit(".", 1)[-1]
    if tensor.ndim != own.ndim or tensor.shape[-1] != own.shape[-1]:
        return None
    # A table with a class token is no square, and belongs to another kind of network.
    if last == "position" and table_side(tensor) ** 2 == tensor.shape[1]:
        side = table_side(own)
        return resize_table(tensor.float(), (side, side), module.body.position_offset)
    if last == "decoder_position" and table_side(tensor) ** 2 == tensor.shape[1]:
        side = table_side(own)
        return resize_table(tensor.float(), (side, side), 0.0)
    if last == "relative":
        # The table has (2 S - 1)^2 rows.
        side = (round(own.shape[0] ** 0.5) + 1) // 2
        return resize_relative_table(tensor.float(), (side, side))
    return None
