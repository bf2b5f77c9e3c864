"""How much of a GPU a run uses: model FLOPs utilisation (MFU), and what it is counted from."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from itpn_ray.tasks.base import AnyTask
from itpn_ray.tasks.cost import FORWARD_ONLY

PEAK_FLOPS = {
    # Blackwell: a GB200 or GB300 has two of these.
    "B100": 1.75e15,
    "B200": 2.25e15,
    "B300": 2.25e15,
    "GB200": 2.5e15,
    "GB300": 2.5e15,
    "RTX PRO 6000 Blackwell": 504e12,
    "RTX 5090": 210e12,
    # Hopper; H800 and H20 are its export models.
    "GH200": 989e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H20": 148e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "H800": 989e12,
    "H800 PCIe": 756e12,
    # Ada
    "L4": 121e12,
    "L40": 181e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 4090 D": 147e12,
    "RTX 6000 Ada": 364e12,
    # Ampere
    "A10": 125e12,
    "A100": 312e12,
    "A100X": 312e12,
    "A10G": 70e12,
    "A30": 165e12,
    "A40": 150e12,
    "A800": 312e12,
    "RTX 3090": 71e12,
    "RTX 3090 Ti": 80e12,
    "RTX A6000": 155e12,
    # AMD
    "MI210": 181e12,
    "MI300A": 981e12,
    "MI300X": 1307e12,
    "MI325X": 1307e12,
    "MI350X": 2300e12,
    "MI355X": 2500e12,
}
"""Words of a GPU's name -> dense bf16 operations a second that are summed in float32, from the
makers' data sheets."""
PARTIAL = ("MIG", "Laptop", "Max-Q")
"""Words of the names of GPUs that are slices or throttled versions of those above."""


def training_flops(multiply_adds: Mapping[str, int]) -> float:
    """Floating-point operations of a training step an image.

    Two a multiply-add; the backward pass costs twice the forward pass, and a teacher or a frozen
    trunk has none.
    Layers computed again to save memory do not count: they are no part of the model.

    Args:
        multiply_adds: of an image's forward pass, by part; see ``Task.multiply_adds``.
    """
    # Forward once, and backward twice as much where a part is trained.
    passes = {part: 1 if part in FORWARD_ONLY else 3 for part in multiply_adds}
    return float(sum(2 * passes[part] * adds for part, adds in multiply_adds.items()))


def peak_rate(task: AnyTask, network: nn.Module, device: torch.device) -> float:
    """Images a second that would keep the device fully busy; 0 where that is not known.

    It is not for CPUs, GPUs that are not listed, and tasks that count no multiply-adds. MFU is the
    images a second that a worker trains on, divided by this.
    """
    if device.type != "cuda":
        return 0.0
    flops = training_flops(task.multiply_adds(network))
    return peak_flops(torch.cuda.get_device_name(device)) / flops if flops else 0.0


def peak_flops(name: str) -> float:
    """The entry of `PEAK_FLOPS` with most letters whose words stand in a GPU's name; 0: none."""
    if any(_stands_in(word, name) for word in PARTIAL):
        return 0.0
    # The longest name wins: "H100 NVL" is an "H100" too.
    found = [known for known in PEAK_FLOPS if _stands_in(known, name)]
    return PEAK_FLOPS[max(found, key=len)] if found else 0.0


def _stands_in(words: str, name: str) -> bool:
    """Whether ``words`` stand in ``name`` as whole words: L4 not in L40, A100 not in A1000."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(words)}(?![A-Za-z0-9])", name) is not None
