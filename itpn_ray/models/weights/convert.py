"""The authors' checkpoints to this package's networks, and back.

What a file holds is read from its tensors' names and shapes alone (`describe`). One table
(`official_names.entries`) pairs every parameter here with the authors' tensors that it is made of,
and serves both directions.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.models.config import (
    FAST_ITPN,
    ITPN,
    PATCH,
    AutoencoderConfig,
    ClassifierConfig,
    DenseConfig,
    DistillerConfig,
    NetworkConfig,
    PyramidConfig,
    TrunkConfig,
    decoder_heads,
)
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.build import build
from itpn_ray.models.weights.files import (
    METADATA_KEY,
    LoadReport,
    load_model,
    place,
    read_file,
    read_metadata,
    read_pickle,
)
from itpn_ray.models.weights.official_names import entries

HEAD_WIDTH = 64  # channels of an attention head where nothing else is known
LAYER_SCALE = 0.1  # the authors' first value; a file shows only that there are scales

_WRAPPERS = ("model", "state_dict", "module")
_PREFIXES = ("module.", "backbone.")
_INDEX = "relative_position_index"  # a buffer of theirs that follows from the grid
# Their auxiliary blocks have offset tables even where the network uses none.
_UNUSED = re.compile(r"cls_pt_layers\.\d+\.attn\.relative_position_bias_table")


def load_official(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    num_heads: int | None = None,
    image_size: int | None = None,
    decoder_num_heads: int | None = None,
    partial: bool = False,
) -> tuple[Network, LoadReport]:
    """One of the authors' checkpoints as a network of this package.

    Sizes, depths, layer scales, relative position, pyramid, decoder and teacher width follow from
    the names and shapes. Numbers of heads do not, unless there are relative position tables:

    Args:
        source: .pth, .pt or .safetensors file, or a state dict.
        num_heads: of stage 3; None: from the relative position tables, else width / 64.
        image_size: pixels a side to build the network for; None: as the position table is.
            Another size than the table's resizes it bicubically.
        decoder_num_heads: of a pixel decoder; None: 16, the authors' number, or with decoders
            narrower than 256 one for every 16 channels.
        partial: accept a file that lacks more than 5 % of the tensors.

    Returns:
        The network on the CPU in eval mode (a classifier, `DenseTrunk`, `PixelAutoencoder` or
        `ClipDistiller`) and what became of each tensor.

    Raises:
        CheckpointError: unreadable, not one of the authors' networks, or less than 95 % fits.
    """
    state, subject = _read(source)
    config = describe(
        state,
        num_heads=num_heads,
        image_size=image_size,
        decoder_num_heads=decoder_num_heads,
        subject=subject,
    )
    module = build(config)
    tensors = from_official(state, config)
    report = place(module, tensors, subject=subject, partial=partial)
    return module.eval(), report


def open_network(path: str | os.PathLike[str]) -> Network:
    """The network in a file of this package or of the authors, on the CPU, in eval mode.

    Raises:
        CheckpointError: unreadable, or neither.
    """
    if str(path).endswith(".safetensors") and METADATA_KEY in read_metadata(path):
        return load_model(path)
    return load_official(path)[0]


def from_official(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Tensors with this package's names; those without a counterpart keep the authors' name."""
    left = {name: tensor for name, tensor in state.items() if not name.endswith(_INDEX)}
    if not config.trunk.relative_position:
        left = {name: tensor for name, tensor in left.items() if not _UNUSED.fullmatch(name)}
    ours: dict[str, Tensor] = {}
    for entry in entries(config):
        if all(name in left for name in entry.official):
            ours[entry.name] = entry.change.join([left.pop(name) for name in entry.official])
    return {**ours, **left}


def to_official(module: Network) -> dict[str, Tensor]:
    """The weights of a network under the authors' names and in their shapes.

    The pyramid, decoder and distillation parts of Fast-iTPN, which the authors did not publish,
    get the names that they have in iTPN.
    """
    own = module.state_dict()
    official: dict[str, Tensor] = {}
    for entry in entries(module.config):
        parts = entry.change.split(own[entry.name], len(entry.official))
        official.update(
            {name: part.contiguous() for name, part in zip(entry.official, parts, strict=True)}
        )
    return official


# --- which network a state dict holds ------------------------------------------------------------


def describe(
    state: Mapping[str, Tensor],
    *,
    num_heads: int | None = None,
    image_size: int | None = None,
    decoder_num_heads: int | None = None,
    subject: str = "state dict",
) -> NetworkConfig:
    """The network that the authors' `state` holds; see `load_official`.

    Raises:
        CheckpointError: it holds none of theirs.
    """
    try:
        trunk = _describe_trunk(state, num_heads, image_size)
        return _describe_model(state, trunk, decoder_num_heads)
    except (LookupError, ValueError, StopIteration, ConfigError) as error:
        raise CheckpointError(
            subject,
            None,
            f"does not hold one of the authors' networks ({error})",
            "load files of this package with load_model; otherwise check the file",
        ) from error


def _describe_trunk(
    state: Mapping[str, Tensor], num_heads: int | None, image_size: int | None
) -> TrunkConfig:
    family = FAST_ITPN if "pos_embed" in state else ITPN
    position = state["pos_embed" if family == FAST_ITPN else "absolute_pos_embed"]
    width = position.shape[2]
    merges = [i for i in range(_count(state, "blocks")) if f"blocks.{i}.reduction.weight" in state]
    first, second = merges
    blocks = _count(state, "blocks")
    late = f"blocks.{second + 1}"
    table = state.get(f"{late}.attn.relative_position_bias_table")
    hidden = state[f"{late}.mlp.{'w1' if family == FAST_ITPN else 'fc1'}.weight"].shape[0]
    early = next(name for name in state if re.fullmatch(r"blocks\.\d+\.mlp\.fc1\.weight", name))
    return TrunkConfig(
        family=family,
        width=width,
        heads=_heads(width, table, num_heads),
        depths=(first, second - first - 1, blocks - second - 1),
        image_size=image_size or _table_size(position),
        early_mlp_ratio=state[early].shape[0] / state[early].shape[1],
        mlp_ratio=hidden / width,
        layer_scale=LAYER_SCALE if f"{late}.gamma_1" in state else None,
        patch_norm="patch_embed.norm.weight" in state,
        relative_position=table is not None,
    )


def _describe_model(
    state: Mapping[str, Tensor], trunk: TrunkConfig, decoder_num_heads: int | None
) -> NetworkConfig:
    if "align_dim_16to8.weight" not in state:
        return ClassifierConfig(
            trunk=trunk,
            num_classes=state["head.weight"].shape[0] if "head.weight" in state else 0,
            norm_before_pool="fc_norm.weight" not in state and "norm.weight" in state,
        )
    pyramid = PyramidConfig(
        width=state["align_dim_8to4.weight"].shape[0],
        depth=_count(state, "block_16to8"),
        mlp_ratio=_ratio(state, "fpn_modules.0.mlp.fc1.weight"),
    )
    if "decoder_pred.weight" in state:
        width = state["decoder_pred.weight"].shape[1]
        return AutoencoderConfig(
            trunk=trunk,
            pyramid=pyramid,
            decoder_width=width,
            decoder_depth=_count(state, "decoder_blocks"),
            decoder_heads=decoder_num_heads or decoder_heads(width),
            decoder_mlp_ratio=_ratio(state, "decoder_blocks.0.mlp.fc1.weight"),
        )
    if "lm_head.weight" in state:
        return DistillerConfig(
            trunk=trunk,
            pyramid=pyramid,
            teacher_dim=state["lm_head.weight"].shape[0],
            aux_depth=_count(state, "cls_pt_layers"),
        )
    return DenseConfig(trunk=trunk, pyramid=pyramid)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Entries of the module list called `prefix`."""
    found = (re.match(rf"{prefix}\.(\d+)\.", name) for name in state)
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


def _ratio(state: Mapping[str, Tensor], name: str) -> float:
    """Hidden width over width of an MLP, from its first matrix; 4 where there is none."""
    return state[name].shape[0] / state[name].shape[1] if name in state else 4.0


def _table_size(position: Tensor) -> int:
    side = math.isqrt(position.shape[1])
    if side * side != position.shape[1]:
        raise ConfigError(
            "position table",
            tuple(position.shape),
            "not made for square images",
            "only square tables can be read",
        )
    return side * PATCH


def _heads(width: int, table: Tensor | None, given: int | None) -> int:
    found = None if table is None else table.shape[1]
    if given is not None and found is not None and given != found:
        raise ConfigError(
            "num_heads", given, f"the relative position tables are for {found}", "leave it out"
        )
    return found or given or max(1, width // HEAD_WIDTH)


def _read(
    source: str | os.PathLike[str] | Mapping[str, Any],
) -> tuple[dict[str, Tensor], str]:
    """The bare state dict of a file or mapping, and what to call it in messages."""
    subject = "state dict"
    if not isinstance(source, Mapping):
        subject = str(source)
        source = read_file(source)[1] if subject.endswith(".safetensors") else read_pickle(source)
    for wrapper in _WRAPPERS:
        if isinstance(source, Mapping) and isinstance(source.get(wrapper), Mapping):
            source = source[wrapper]
    if not isinstance(source, Mapping):
        raise CheckpointError(
            subject, type(source).__name__, "holds no state dict", "give a checkpoint file"
        )
    state = {str(name): value for name, value in source.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state, subject
