"""A GPU whose memory does not suffice, reported with what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from itpn_ray.errors import RunError
from itpn_ray.experiment import ExperimentConfig

LEAST = 2
"""Fewest images of a micro-batch: they are mixed in pairs."""


@contextmanager
def fits_memory(config: ExperimentConfig, images: int) -> Iterator[None]:
    """Let what happens inside end with an option to lower where the GPU's memory does not suffice.

    Args:
        config: the run's.
        images: most that a worker passes through the network at once.

    Raises:
        RunError: it does not suffice.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            "optim.micro_batch",
            images,
            "so many images at once do not fit into the GPU's memory",
            f"Use {_hint(config, images)}",
        ) from error


def _hint(config: ExperimentConfig, images: int) -> str:
    """What takes less memory and computes the same, else what computes something smaller."""
    options = []
    if images > LEAST:
        # Half of them, in whole pairs.
        options.append(f"--optim.micro-batch {max(LEAST, images // 4 * 2)}")
    if not config.model.checkpoint_activations:
        options.append("--model.checkpoint-activations true")
    return " or ".join(options) or "smaller images, a smaller network, or a larger GPU"
