"""How much of a GPU a run uses: model FLOPs utilisation (MFU), and what it is counted from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from itpn_ray.tasks.base import AnyTask

PEAK_FLOPS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Part of a GPU's name -> dense bf16 operations a second, from NVIDIA's data sheets; longer names
first, where one is part of another."""


def training_flops(multiply_adds: Mapping[str, int]) -> float:
    """Floating-point operations of a training step an image.

    Two a multiply-add; the backward pass costs twice the forward pass, and a teacher has none.
    Layers computed again to save memory do not count: they are no part of the model.

    Args:
        multiply_adds: of an image's forward pass, by part; see ``Task.multiply_adds``.
    """
    return float(sum(2 * n * (1 if part == "teacher" else 3) for part, n in multiply_adds.items()))


def peak_rate(task: AnyTask, network: nn.Module, device: torch.device) -> float:
    """Images a second that would keep the device fully busy; 0 for CPUs and unknown GPUs.

    MFU is the images a second that a worker trains on, divided by this.
    """
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    peak = next((peak for part, peak in PEAK_FLOPS.items() if part in name), 0.0)
    return peak / training_flops(task.multiply_adds(network))
