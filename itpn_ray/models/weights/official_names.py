"""What each parameter is made of in the authors' checkpoints: one table for both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from itpn_ray.models.config import (
    FAST_ITPN,
    AutoencoderConfig,
    ClassifierConfig,
    DistillerConfig,
    NetworkConfig,
    PyramidConfig,
    TrunkConfig,
)


@dataclass(frozen=True)
class Change:
    """How the authors' tensors become one of ours, and back."""

    join: Callable[[Sequence[Tensor]], Tensor]
    split: Callable[[Tensor, int], Sequence[Tensor]]


@dataclass(frozen=True)
class Entry:
    """One of our parameters and the authors' tensors that it is made of."""

    name: str
    official: tuple[str, ...]
    change: Change


def _one(forth: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Change:
    return Change(lambda parts: forth(parts[0]), lambda tensor, _: [back(tensor)])


def _swap(tensor: Tensor) -> Tensor:
    """Exchange rows and columns of the 2x2 neighbours along the last axis, (..., 4C)."""
    # The two axes of the four neighbours change places.
    return tensor.unflatten(-1, (2, 2, -1)).transpose(-3, -2).flatten(-3)


SAME = _one(lambda tensor: tensor, lambda tensor: tensor)
# Several matrices or biases stacked: queries, keys, values; gate and value of SwiGLU.
STACK = Change(lambda parts: torch.cat(list(parts)), lambda tensor, count: tensor.chunk(count))
# Convolutions as linear layers: (O, C, k, k) <-> (O, k * k * C) or, for images, (O, C * k * k).
CONV1 = _one(lambda tensor: tensor.flatten(1), lambda tensor: tensor[:, :, None, None])
CONV2 = _one(
    lambda tensor: tensor.permute(0, 2, 3, 1).flatten(1),
    lambda tensor: tensor.unflatten(1, (2, 2, -1)).permute(0, 3, 1, 2),
)
EMBED = _one(lambda tensor: tensor.flatten(1), lambda tensor: tensor.unflatten(1, (3, 4, 4)))
# The authors' iTPN lists the four neighbours of a merge column by column, we row by row.
NEIGHBOURS = _one(_swap, _swap)


def entries(config: NetworkConfig) -> Iterator[Entry]:
    """Every parameter of the network that `config` describes."""
    yield from _trunk_entries(config.trunk)
    if isinstance(config, ClassifierConfig):
        yield from _pairs("norm", "norm" if config.norm_before_pool else "fc_norm")
        if config.num_classes:
            yield from _pairs("head", "head")
        return
    yield from _pyramid_entries(config.pyramid, aligned=config.trunk.width != config.pyramid.width)
    if isinstance(config, AutoencoderConfig):
        yield from _fold_entries()
        yield from _autoencoder_entries(config)
    elif isinstance(config, DistillerConfig):
        yield from _fold_entries()
        yield from _distiller_entries(config)


def _pairs(ours: str, theirs: str, weight: Change = SAME, bias: bool = True) -> Iterator[Entry]:
    """Weight and bias of one layer."""
    yield Entry(f"{ours}.weight", (f"{theirs}.weight",), weight)
    if bias:
        yield Entry(f"{ours}.bias", (f"{theirs}.bias",), SAME)


def _trunk_entries(config: TrunkConfig) -> Iterator[Entry]:
    fast = config.family == FAST_ITPN
    first, second, third = config.depths
    position = "pos_embed" if fast else "absolute_pos_embed"
    yield Entry("trunk.position", (position,), SAME)
    yield from _pairs("trunk.embed", "patch_embed.proj", EMBED)
    if config.patch_norm:
        yield from _pairs("trunk.embed_norm", "patch_embed.norm")
    for i in range(first):
        yield from _early_entries(f"trunk.stage1.{i}", f"blocks.{i}", config)
    yield from _merge_entries("trunk.merge1", f"blocks.{first}", fast)
    for i in range(second):
        yield from _early_entries(f"trunk.stage2.{i}", f"blocks.{first + 1 + i}", config)
    yield from _merge_entries("trunk.merge2", f"blocks.{first + second + 1}", fast)
    for i in range(third):
        ours, theirs = f"trunk.stage3.{i}", f"blocks.{first + second + 2 + i}"
        yield from _late_entries(ours, theirs, config)


def _early_entries(ours: str, theirs: str, config: TrunkConfig) -> Iterator[Entry]:
    fast = config.family == FAST_ITPN
    yield from _mlp_entries(ours, theirs, CONV1 if fast else SAME)
    if fast:
        yield from _pairs(f"{ours}.mlp.norm", f"{theirs}.mlp.ffn_ln")
    # Fast-iTPN has no scales in stages 1 and 2.
    elif config.layer_scale is not None:
        yield Entry(f"{ours}.scale2", (f"{theirs}.gamma_2",), SAME)


def _mlp_entries(ours: str, theirs: str, weight: Change = SAME) -> Iterator[Entry]:
    yield from _pairs(f"{ours}.norm2", f"{theirs}.norm2")
    yield from _pairs(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1", weight)
    yield from _pairs(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2", weight)


def _merge_entries(ours: str, theirs: str, fast: bool) -> Iterator[Entry]:
    if fast:
        yield from _pairs(f"{ours}.norm", f"{theirs}.norm")
        yield from _pairs(f"{ours}.reduce", f"{theirs}.reduction", CONV2)
    else:
        yield Entry(f"{ours}.norm.weight", (f"{theirs}.norm.weight",), NEIGHBOURS)
        yield Entry(f"{ours}.norm.bias", (f"{theirs}.norm.bias",), NEIGHBOURS)
        yield from _pairs(f"{ours}.reduce", f"{theirs}.reduction", NEIGHBOURS, bias=False)


def _late_entries(ours: str, theirs: str, config: TrunkConfig) -> Iterator[Entry]:
    """A block of stage 3, or of the auxiliary branch."""
    if config.layer_scale is not None:
        yield Entry(f"{ours}.scale1", (f"{theirs}.gamma_1",), SAME)
        yield Entry(f"{ours}.scale2", (f"{theirs}.gamma_2",), SAME)
    if config.relative_position:
        table = f"{theirs}.attn.relative_position_bias_table"
        yield Entry(f"{ours}.attention.relative", (table,), SAME)
    if config.family != FAST_ITPN:
        yield from _attention_entries(ours, theirs)
        yield from _mlp_entries(ours, theirs)
        return
    yield from _pairs(f"{ours}.norm1", f"{theirs}.norm1")
    # Fast-iTPN's attention has three matrices, iTPN's one.
    separate = tuple(f"{theirs}.attn.{part}_proj.weight" for part in "qkv")
    yield Entry(f"{ours}.attention.qkv.weight", separate, STACK)
    yield Entry(f"{ours}.attention.q_bias", (f"{theirs}.attn.q_bias",), SAME)
    yield Entry(f"{ours}.attention.v_bias", (f"{theirs}.attn.v_bias",), SAME)
    yield from _pairs(f"{ours}.attention.proj", f"{theirs}.attn.proj")
    yield from _pairs(f"{ours}.norm2", f"{theirs}.norm2")
    for kind in ("weight", "bias"):
        both = (f"{theirs}.mlp.w1.{kind}", f"{theirs}.mlp.w2.{kind}")
        yield Entry(f"{ours}.mlp.w12.{kind}", both, STACK)
    yield from _pairs(f"{ours}.mlp.norm", f"{theirs}.mlp.ffn_ln")
    yield from _pairs(f"{ours}.mlp.w3", f"{theirs}.mlp.w3")


def _attention_entries(ours: str, theirs: str) -> Iterator[Entry]:
    yield from _pairs(f"{ours}.norm1", f"{theirs}.norm1")
    yield from _pairs(f"{ours}.attention.qkv", f"{theirs}.attn.qkv")
    yield from _pairs(f"{ours}.attention.proj", f"{theirs}.attn.proj")


def _pyramid_entries(config: PyramidConfig, *, aligned: bool) -> Iterator[Entry]:
    if aligned:
        yield from _pairs("pyramid.lateral3", "align_dim_16tofpn")
    for level, theirs in ((2, "16to8"), (1, "8to4")):
        yield from _pairs(f"pyramid.lateral{level}", f"align_dim_{theirs}", bias=False)
        yield from _pairs(f"pyramid.split{level + 1}.norm", f"split_{theirs}.norm")
        split = f"split_{theirs}.reduction"
        yield from _pairs(f"pyramid.split{level + 1}.expand", split, bias=False)
        for i in range(config.depth):
            yield from _mlp_entries(f"pyramid.blocks{level}.{i}", f"block_{theirs}.{i}")
    for i, level in enumerate((3, 2, 1)):
        yield from _mlp_entries(f"pyramid.out{level}", f"fpn_modules.{i}")


def _fold_entries() -> Iterator[Entry]:
    """The authors list the maps from coarse to fine, we from fine to coarse."""
    # The authors count from the coarsest map on.
    for i in range(3):
        yield from _pairs(f"fold.norms.{2 - i}", f"decoder_embed.{i}.0")
        yield from _pairs(f"fold.linears.{2 - i}", f"decoder_embed.{i}.1")


def _autoencoder_entries(config: AutoencoderConfig) -> Iterator[Entry]:
    yield Entry("mask_token", ("mask_token",), SAME)
    yield Entry("decoder_position", ("decoder_pos_embed",), SAME)
    for i in range(config.decoder_depth):
        yield from _attention_entries(f"decoder.{i}", f"decoder_blocks.{i}")
        yield from _mlp_entries(f"decoder.{i}", f"decoder_blocks.{i}")
    yield from _pairs("decoder_norm", "decoder_norm")
    yield from _pairs("to_pixels", "decoder_pred")


def _distiller_entries(config: DistillerConfig) -> Iterator[Entry]:
    yield Entry("mask_token", ("mask_token",), SAME)
    yield from _pairs("main_norm", "norm")
    yield from _pairs("to_teacher", "lm_head")
    yield from _pairs("aux_norm", "norm_cls")
    yield from _pairs("aux_to_teacher", "lm_cls_head")
    for i in range(config.aux_depth):
        yield from _late_entries(f"aux_blocks.{i}", f"cls_pt_layers.{i}", config.trunk)
