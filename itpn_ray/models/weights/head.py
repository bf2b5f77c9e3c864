"""A classifier's head for other classes: those that both know by name keep what was learned."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import nn

from itpn_ray.errors import CheckpointError
from itpn_ray.formatting import show_names
from itpn_ray.models.networks.classifier import Classifier
from itpn_ray.models.weights.read import read_weights


def take_head(
    network: Classifier,
    classes: Sequence[str],
    path: str | os.PathLike[str],
    key: str | None = None,
) -> int:
    """Copy a head's rows of the classes that the network is to tell apart.

    Args:
        network: a classifier of as many classes.
        classes: their names.
        path: a classifier's weight file, or a run's folder; it names its own classes.
        key: see `read_weights`.

    Returns:
        Classes that the file knows too.

    Raises:
        CheckpointError: the file holds no head with named classes, or none of these classes.
    """
    weights = read_weights(path, key=key)
    known = {name: row for row, name in enumerate(weights.classes)}
    rows = {index: known[name] for index, name in enumerate(classes) if name in known}
    if "head.weight" not in weights.tensors or not rows:
        told = f"knows {show_names(list(known), 3)}" if known else "names no classes"
        raise CheckpointError(
            weights.subject,
            None,
            f"has no head for any of the classes {show_names(classes, 3)}: it {told}",
            "Leave out --task.init-head, or start from a classifier of such classes",
        )
    assert isinstance(network.head, nn.Linear)
    own, theirs = list(rows), list(rows.values())
    with torch.no_grad():
        for name in ("weight", "bias"):
            table = weights.tensors[f"head.{name}"]
            getattr(network.head, name)[own] = table[theirs].to(network.head.weight)
    return len(rows)
