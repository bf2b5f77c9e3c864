"""A trained network as MLflow serves it: bytes of images in, what the network says of them out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from itpn_ray.data.loading.image_folder import FolderImage, decode_image
from itpn_ray.tasks.registry import task_of_file
from itpn_ray.tasks.trained import PredictionPlace


class ServedModel:
    """Answers for images.

    Args:
        path: a weight file that a task exported.

    Raises:
        CheckpointError: there is no such file, or nothing in it answers.
    """

    def __init__(self, path: str) -> None:
        task = task_of_file(path)
        network, _ = task.load(path)
        place = PredictionPlace(device=torch.device("cpu"), autocast=nullcontext)
        self._predict = task.predictor(network, task.class_names(network), place)

    def predict(
        self, table: Mapping[str, Iterable[bytes]], params: object = None
    ) -> list[dict[str, Any]]:
        """What `itpn-ray predict` writes of each image: a list under ``found``, or an ``error``.

        Args:
            table: with a column ``image``, the bytes of image files.
            params: MLflow gives them; there are none.
        """
        del params
        return [self._answer(data) for data in table["image"]]

    def _answer(self, data: bytes) -> dict[str, Any]:
        pixels = decode_image(data)
        # A broken image answers with the reason, and the other rows of the request go on.
        if isinstance(pixels, str):
            return {"error": pixels}
        (answer,) = self._predict([FolderImage(number=1, path="", pixels=pixels)])
        return {"found": answer.entries}


def _load_pyfunc(path: str) -> ServedModel:
    """What MLflow calls to load a model, by this name."""
    return ServedModel(path)
