"""How deep each parameter lies: the groups of layer decay, as the authors' code has them.

| network    | embedding, position | stages 1 and 2 | stage 3 | merges                |
|------------|---------------------|----------------|---------|-----------------------|
| Fast-iTPN  | 0                   | place          | place   | place                 |
| iTPN       | 0                   | place          | place   | with the block before |
| dense maps | 0                   | 0              | i + 1   | 0                     |

"Place" is the block's place in the list of all blocks, from 1; merges have places of their own in
Fast-iTPN. Necks and heads have the largest id; with L blocks in all three stages it is L + 3 for
Fast-iTPN and L + 1 otherwise. The learning rate of id i is scaled by decay ** (largest - i).
"""

from __future__ import annotations

import re

from torch import nn

from itpn_ray.models.config import FAST_ITPN, DenseConfig, DenseHeadConfig, TrunkConfig
from itpn_ray.models.networks.base import Network

NO_DECAY = ("position", "relative", "token", "window_bias", "cross_bias")
_PART = re.compile(
    r"^(?:(.*)\.)?trunk\.(embed|embed_norm|position|merge1|merge2|stage[123])\b\.?(\d*)"
)


def layer_ids(model: Network) -> dict[str, int]:
    """The depth of every parameter of a network; detectors and segmenters count as dense maps do.

    Args:
        model: one of this package's networks.

    Returns:
        Parameter name -> id, 0 at the input; pre-training networks count as their trunk does.
    """
    config = model.body.config
    dense = isinstance(model.config, DenseConfig | DenseHeadConfig)
    return {name: _layer_id(name, config, dense) for name, _ in model.named_parameters()}


def stage_of(name: str) -> int:
    """A parameter's coarse depth: 0 embedding, 1 to 3 the stages with their merges, 4 the rest."""
    match = _PART.match(name)
    if match is None:
        return 4
    part = match.group(2)
    return int(part[-1]) if part[-1].isdigit() else 0


def no_weight_decay(model: nn.Module) -> set[str]:
    """Names of parameters that weight decay leaves alone: vectors and position tables."""
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or name.rsplit(".", 1)[-1] in NO_DECAY
    }


def largest_id(config: TrunkConfig, *, dense: bool = False) -> int:
    """The id of necks and heads."""
    # The authors' Fast-iTPN lists its merges among the blocks, their iTPN does not.
    merges = 2 if config.family == FAST_ITPN and not dense else 0
    return sum(config.depths) + merges + 1


def _layer_id(name: str, config: TrunkConfig, dense: bool) -> int:
    match = _PART.match(name)
    if match is None:
        return largest_id(config, dense=dense)
    part, number = match.group(2), match.group(3)
    first, second, _ = config.depths
    merges = 1 if config.family == FAST_ITPN else 0
    if part in ("embed", "embed_norm", "position"):
        return 0
    if dense:
        return int(number) + 1 if part == "stage3" else 0
    start = {
        "stage1": 1,
        "merge1": first + merges,
        "stage2": first + merges + 1,
        "merge2": first + second + 2 * merges,
        "stage3": first + second + 2 * merges + 1,
    }[part]
    return start + int(number or 0)
