"""Which network a state dict holds, from its tensors' names and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.models.config import (
    FAST_ITPN,
    ITPN,
    PATCH,
    SIZES,
    AutoencoderConfig,
    ClassifierConfig,
    DenseConfig,
    DistillerConfig,
    NetworkConfig,
    PyramidConfig,
    TrunkConfig,
    decoder_heads,
)

HEAD_WIDTH = 64  # channels of an attention head where nothing else is known
LAYER_SCALE = 0.1  # the authors' first value; a file shows only that there are scales

_PUBLISHED = {
    (size.trunk.family, size.trunk.width, size.trunk.depths): size.trunk.heads
    for size in SIZES.values()
}
"""Heads of each published size."""

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the tensors that tell a network's shape are called; {} stands for a block's name."""

    hidden: tuple[str, str]
    """First matrix of a stage-3 MLP, of Fast-iTPN and of iTPN."""
    hidden_parts: int
    """Matrices of Fast-iTPN's that are stacked in the first of these."""
    early: str
    """Pattern of the first matrix of any MLP before stage 3."""
    convolution: str
    """Pattern of any convolution before stage 3; empty: there are none."""
    scale: str
    relative: str
    patch_norm: str
    pyramid_width: str
    pyramid_blocks: str
    pyramid_mlp: str
    to_pixels: str
    decoder: str
    to_teacher: str
    aux_blocks: str
    norm: str
    norm_behind: str
    """The norm that follows the mean; where only `norm` is there, it comes before."""


AUTHORS = Names(
    hidden=("{}.mlp.w1.weight", "{}.mlp.fc1.weight"),
    hidden_parts=1,
    early=r"blocks\.\d+\.mlp\.fc1\.weight",
    convolution="",
    scale="{}.gamma_1",
    relative="{}.attn.relative_position_bias_table",
    patch_norm="patch_embed.norm.weight",
    pyramid_width="align_dim_8to4.weight",
    pyramid_blocks="block_16to8",
    pyramid_mlp="fpn_modules.0.mlp.fc1.weight",
    to_pixels="decoder_pred.weight",
    decoder="decoder_blocks",
    to_teacher="lm_head.weight",
    aux_blocks="cls_pt_layers",
    norm="norm.weight",
    norm_behind="fc_norm.weight",
)
OURS = Names(
    hidden=("{}.mlp.w12.weight", "{}.mlp.fc1.weight"),
    hidden_parts=2,
    early=r"trunk\.stage[12]\.\d+\.mlp\.fc1\.weight",
    convolution=r"trunk\.stage[12]\.\d+\.conv\.weight",
    scale="{}.scale1",
    relative="{}.attention.relative",
    patch_norm="trunk.embed_norm.weight",
    pyramid_width="pyramid.lateral1.weight",
    pyramid_blocks="pyramid.blocks2",
    pyramid_mlp="pyramid.out3.mlp.fc1.weight",
    to_pixels="to_pixels.weight",
    decoder="decoder",
    to_teacher="to_teacher.weight",
    aux_blocks="aux_blocks",
    norm="norm.weight",
    norm_behind="norm.weight",
)


def describe(
    state: State,
    *,
    num_heads: int | None = None,
    image_size: int | None = None,
    decoder_num_heads: int | None = None,
    subject: str = "state dict",
) -> NetworkConfig:
    """The network that `state` holds, in the authors' names or in ours.

    Args:
        state: the tensors.
        num_heads: of stage 3; None: from the relative position tables, else as the published size
            of this width and depth has, else width / 64.
        image_size: pixels a side to build the network for; None: as the position table is.
        decoder_num_heads: of a pixel decoder; None: 16, the authors' number, or with decoders
            narrower than 256 one for every 16 channels.
        subject: the file, for messages.

    Raises:
        CheckpointError: it holds neither.
    """
    try:
        if is_ours(state):
            family, position, depths, late = _our_trunk(state)
            names = OURS
        else:
            family, position, depths, late = _authors_trunk(state)
            names = AUTHORS
        size = image_size or _table_size(position)
        trunk = _trunk(state, names, family, position.shape[2], depths, late, size, num_heads)
        return _network(state, names, trunk, decoder_num_heads)
    except (LookupError, ValueError, StopIteration, ConfigError) as error:
        raise CheckpointError(
            subject,
            None,
            f"holds no network of this package or of the authors ({error})",
            "Check that it is the file of a Fast-iTPN or iTPN",
        ) from error


def is_ours(state: State) -> bool:
    """Whether the tensors have this package's names."""
    return "trunk.position" in state


Trunk = tuple[str, Tensor, tuple[int, int, int], str]
"""Family, position table, blocks of each stage, name of the first block of stage 3."""


def _our_trunk(state: State) -> Trunk:
    stages = tuple(_count(state, rf"trunk\.stage{stage}") for stage in (1, 2, 3))
    first = "trunk.stage3.0"
    family = FAST_ITPN if f"{first}.mlp.w12.weight" in state else ITPN
    return family, state["trunk.position"], (stages[0], stages[1], stages[2]), first


def _authors_trunk(state: State) -> Trunk:
    # The families' code names the same table differently.
    family = FAST_ITPN if "pos_embed" in state else ITPN
    position = state["pos_embed" if family == FAST_ITPN else "absolute_pos_embed"]
    blocks = _count(state, "blocks")
    # The authors list merges among the blocks; where they stand tells the depths.
    merges = [i for i in range(blocks) if f"blocks.{i}.reduction.weight" in state]
    first, second = merges
    depths = first, second - first - 1, blocks - second - 1
    return family, position, depths, f"blocks.{second + 1}"


def _trunk(
    state: State,
    names: Names,
    family: str,
    width: int,
    depths: tuple[int, int, int],
    late: str,
    image_size: int,
    num_heads: int | None,
) -> TrunkConfig:
    table = state.get(names.relative.format(late))
    fast = family == FAST_ITPN
    hidden = state[names.hidden[0 if fast else 1].format(late)].shape[0]
    # The first is of stage 1, whichever names the file has; none where all blocks are in stage 3,
    # or those before it are convolutions.
    early = next((name for name in state if re.fullmatch(names.early, name)), None)
    return TrunkConfig(
        family=family,
        width=width,
        heads=_heads(width, table, num_heads, (family, width, depths)),
        depths=depths,
        image_size=image_size,
        early_mlp_ratio=TrunkConfig.early_mlp_ratio if early is None else _ratio(state, early),
        # In our files SwiGLU's gate and value are one matrix.
        mlp_ratio=hidden / width / (names.hidden_parts if fast else 1),
        layer_scale=LAYER_SCALE if names.scale.format(late) in state else None,
        patch_norm=names.patch_norm in state,
        convolution=any(re.fullmatch(names.convolution, name) for name in state),
        relative_position=table is not None,
    )


def _network(
    state: State, names: Names, trunk: TrunkConfig, decoder_num_heads: int | None
) -> NetworkConfig:
    if names.pyramid_width not in state:
        return ClassifierConfig(
            trunk=trunk,
            num_classes=state["head.weight"].shape[0] if "head.weight" in state else 0,
            norm_before_pool=names.norm in state and names.norm_behind not in state,
        )
    pyramid = PyramidConfig(
        width=state[names.pyramid_width].shape[0],
        depth=_count(state, names.pyramid_blocks),
        mlp_ratio=_ratio(state, names.pyramid_mlp),
    )
    if names.to_pixels in state:
        width = state[names.to_pixels].shape[1]
        return AutoencoderConfig(
            trunk=trunk,
            pyramid=pyramid,
            decoder_width=width,
            decoder_depth=_count(state, names.decoder),
            decoder_heads=decoder_num_heads or decoder_heads(width),
            decoder_mlp_ratio=_ratio(state, f"{names.decoder}.0.mlp.fc1.weight"),
        )
    if names.to_teacher in state:
        return DistillerConfig(
            trunk=trunk,
            pyramid=pyramid,
            teacher_dim=state[names.to_teacher].shape[0],
            aux_depth=_count(state, names.aux_blocks),
        )
    return DenseConfig(trunk=trunk, pyramid=pyramid)


def _count(state: State, prefix: str) -> int:
    """Entries of the module list called `prefix`, a pattern."""
    found = (re.match(rf"{prefix}\.(\d+)\.", name) for name in state)
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


def _ratio(state: State, name: str) -> float:
    """Hidden width over width of an MLP, from its first matrix; 4 where there is none."""
    # 4 is the authors' ratio, for files without such a layer.
    return state[name].shape[0] / state[name].shape[1] if name in state else 4.0


def _table_size(position: Tensor) -> int:
    side = math.isqrt(position.shape[1])
    if side * side != position.shape[1]:
        raise ConfigError(
            "position table",
            tuple(position.shape),
            "not made for square images",
            "Only square tables can be read",
        )
    return side * PATCH


def _heads(
    width: int,
    table: Tensor | None,
    given: int | None,
    size: tuple[str, int, tuple[int, int, int]],
) -> int:
    found = None if table is None else table.shape[1]
    if given is not None and found is not None and given != found:
        raise ConfigError(
            "num_heads", given, f"the relative position tables are for {found}", "Leave it out"
        )
    # What the file shows first, then what is said, then what was published.
    return found or given or _PUBLISHED.get(size) or max(1, width // HEAD_WIDTH)


def heads_are_guessed(trunk: TrunkConfig) -> bool:
    """Whether neither a file's tensors nor the size table tell the heads of such a trunk."""
    known = (trunk.family, trunk.width, trunk.depths) in _PUBLISHED
    return not known and not trunk.relative_position
