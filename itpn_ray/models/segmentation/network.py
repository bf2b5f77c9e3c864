"""Segmenters by the names of their trunks and heads."""

from __future__ import annotations

from typing import Any

from itpn_ray.checks import one_of
from itpn_ray.models.networks.build import build, dense_head_config
from itpn_ray.models.segmentation.base import Segmenter
from itpn_ray.models.segmentation.config import HEADS, SegmenterConfig


def create_segmenter(
    name: str, *, head: str = "upernet", pyramid_depth: int = 2, **changes: Any
) -> Segmenter:
    """A segmenter by the name of its trunk.

    Args:
        name: see `itpn_ray.models.create_trunk`.
        head: one of `HEADS`.
        pyramid_depth: blocks after each upsampling (the authors' 2).
        changes: fields of the head's settings, such as num_classes; see `dense_head_config` for
            others.

    Raises:
        ConfigError: no such name, head or field, or a value that does not fit.
    """
    one_of("head", head, HEADS)
    kind = HEADS[head]
    if kind is SegmenterConfig:
        changes["head"] = head
    network = build(dense_head_config(kind, name, pyramid_depth=pyramid_depth, **changes))
    assert isinstance(network, Segmenter)
    return network
