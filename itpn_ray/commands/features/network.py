"""A network as a function from images of any sizes to one vector each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from itpn_ray.data.loading.decode import centre_crop
from itpn_ray.data.loading.image_folder import Answer, FolderImage
from itpn_ray.data.transforms.on_device import normalise
from itpn_ray.models import Classifier
from itpn_ray.models.networks.base import Network
from itpn_ray.tasks.classification.predictor import shortened
from itpn_ray.training.launch.context import TrainContext


def embed(network: Network, images: Tensor) -> Tensor:
    """(B, 3, S, S) normalised images as (B, d): what a classifier's head sees, or mean tokens."""
    if isinstance(network, Classifier):
        return network.forward_head(network.forward_features(images), pre_logits=True)
    # (B, N, 1, 1, C) -> (B, C)
    return network.body.stages(images)[2].mean(dim=(1, 2, 3))


class Embedder:
    """The vector of an image, by its central crop.

    Args:
        network: in eval mode.
        worker: its device.
    """

    def __init__(self, network: Network, worker: TrainContext) -> None:
        self._network = network.to(worker.device)
        self._worker = worker

    @torch.no_grad()
    def __call__(self, images: Sequence[FolderImage]) -> list[Answer]:
        """An entry an image: ``path``, and ``feature``, float32 of length d."""
        size, fraction = self._network.image_size, self._network.crop_fraction
        crops = [centre_crop(shortened(image.pixels), size, fraction) for image in images]
        batch = torch.stack(crops).to(self._worker.device)  # (B, 3, S, S)
        with self._worker.autocast():
            vectors = embed(self._network, normalise(batch)).float().cpu().numpy()
        return [
            Answer(entries=[{"path": image.path, "feature": vector}])
            for image, vector in zip(images, vectors, strict=True)
        ]
