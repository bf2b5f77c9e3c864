"""Whole float32 where a metric compares numbers that lie close together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def whole_float32(device: torch.device) -> Iterator[None]:
    """Compute as the types say: without autocast, and without TF32 in a GPU's matrix products.

    Training may round both to 8 or 11 bits; features whose cosines are all near 1 would become
    one and the same.

    Args:
        device: where the tensors lie.
    """
    matmul = torch.backends.cuda.matmul
    tf32 = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32 = tf32
