"""PyTorch's deterministic algorithms, and the name of an operation that has none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from itpn_ray.errors import ConfigError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Sizes of cuBLAS's workspace; its products repeat only with fixed ones."""
_REFUSED = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Let this process use deterministic algorithms alone meanwhile, or the fastest there are.

    It must begin before the process has used a GPU, for cuBLAS reads its setting once.

    Raises:
        ConfigError: an operation has no deterministic algorithm here; names it.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if enabled:
        # One of the sizes for which cuBLAS repeats its results; what the user has set stays.
        os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(enabled)
    try:
        yield
    # PyTorch raises no class of its own for it, so its text is searched.
    except RuntimeError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise
        raise ConfigError(
            "deterministic",
            True,
            f"{refused[1]} has no deterministic algorithm on this device",
            "Leave --deterministic out, or train on CPUs",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before)
