"""Tensors under the authors' names to this package's, and back.

One table (`official_names.entries`) pairs every parameter here with the authors' tensors that it is
made of, and serves both directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from itpn_ray.models.config import NetworkConfig
from itpn_ray.models.networks.base import Network
from itpn_ray.models.weights.official_names import entries

_INDEX = "relative_position_index"  # a buffer of theirs that follows from the grid
# Their auxiliary blocks have offset tables even where the network uses none.
_UNUSED = re.compile(r"cls_pt_layers\.\d+\.attn\.relative_position_bias_table")


def from_official(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Tensors with this package's names; those without a counterpart keep the authors' name."""
    left = {name: tensor for name, tensor in state.items() if not name.endswith(_INDEX)}
    if not config.trunk.relative_position:
        left = {name: tensor for name, tensor in left.items() if not _UNUSED.fullmatch(name)}
    ours: dict[str, Tensor] = {}
    for entry in entries(config):
        # Only whole: of a part alone the tensors keep the authors' names, and are reported.
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
