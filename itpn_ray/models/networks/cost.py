"""What a network costs: parameters, and multiply-adds counted on shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from itpn_ray.models.config import PATCH
from itpn_ray.models.detection.base import Detector
from itpn_ray.models.detection.cost import run_through
from itpn_ray.models.networks.autoencoder import PixelAutoencoder
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.build import build, build_trunk
from itpn_ray.models.networks.distillation import ClipDistiller
from itpn_ray.models.trunk.base import Trunk


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Multiply-adds of matrix products inside, on shapes alone: what is made there has no values.

    Attention of other threads runs as two products meanwhile.

    Yields:
        What counts them, to be called afterwards.
    """
    counter = FlopCounterMode(display=False)
    # Attention as two products: not every version of PyTorch counts its fused one on "meta".
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        # The counter takes a multiply-add for two operations.
        yield lambda: counter.get_total_flops() // 2


def parameters(module: nn.Module) -> int:
    """Learned numbers of a module, fixed position codes not among them."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(
    network: Network | Trunk, image_size: int | tuple[int, int], *, visible: int | None = None
) -> int:
    """Multiply-adds of one image's forward pass: all matrix products, attention's among them.

    Nothing is computed: a twin of the network runs on the meta device. Of a detector, the boxes
    that it learns from in training count, noisy copies excepted.

    Args:
        network: a network of this package, or a trunk, as it is now accelerated.
        image_size: pixels, a side or (height, width).
        visible: patches that a trunk or pixel autoencoder sees; None: all of a trunk's, a quarter
            of an autoencoder's.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    tokens = (height // PATCH) * (width // PATCH)
    with counting() as counted:
        images = torch.empty(1, 3, height, width)
        mask = torch.empty(1, tokens, dtype=torch.bool)
        # The quarter that a mask ratio of 0.75 leaves.
        seen = torch.empty(1, visible or max(1, tokens // 4), dtype=torch.int64)
        twin: Network | Trunk = (
            build_trunk(network.config) if isinstance(network, Trunk) else build(network.config)
        )
        # Evaluated: drop path would leave out branches of what is counted.
        twin.eval().requires_grad_(False)
        if isinstance(twin, Trunk):
            twin.stages(images, seen if visible else None)
        elif isinstance(twin, PixelAutoencoder):
            twin(images, mask, visible=seen)
        elif isinstance(twin, ClipDistiller):
            twin(images, mask)
        elif isinstance(twin, Detector):
            run_through(twin, images)
        else:
            twin(images)
    return counted()
