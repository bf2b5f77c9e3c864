"""Networks as programs: tensors in, a tuple of tensors out, all shapes known before an image is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from itpn_ray.data.loading.decode import centre_crop
from itpn_ray.errors import ConfigError
from itpn_ray.models.config import IMAGENET_MEAN, IMAGENET_STD, DenseConfig, crop_fraction
from itpn_ray.models.detection.base import Detector
from itpn_ray.models.detection.dino.network import Dino
from itpn_ray.models.networks.autoencoder import PixelAutoencoder
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.build import build
from itpn_ray.models.networks.classifier import Classifier
from itpn_ray.models.networks.dense_head import DenseHead
from itpn_ray.models.networks.distillation import ClipDistiller
from itpn_ray.models.networks.preprocess import WholeView, to_pixels
from itpn_ray.models.segmentation.base import Segmenter
from itpn_ray.models.weights.files import load_weights

Outputs = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is exported of a network, and how it is fed.

    Attributes:
        module: maps `inputs` to a tuple of `outputs`.
        inputs: names of the arguments, batch first: images (B, 3, S, S) float32, normalised, or
            pixels (B, S, S, 3) uint8 RGB; and of detectors sizes (B, 2) int64, height and width of
            each image's valid part.
        outputs: names of the results.
        side: S, pixels.
        note: which part of the network it is, where it is not the whole.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    side: int
    note: str = ""

    @property
    def takes_pixels(self) -> bool:
        """Whether normalisation is part of it."""
        return self.inputs == ("pixels",)

    def example(self, batch: int) -> Outputs:
        """Inputs of the right shapes."""
        if self.takes_pixels:
            return (torch.zeros(batch, self.side, self.side, 3, dtype=torch.uint8),)
        images = torch.zeros(batch, 3, self.side, self.side)
        sizes = torch.full((batch, 2), self.side)
        return (images, sizes)[: len(self.inputs)]


class Flat(nn.Module):
    """A classifier, segmenter or dense trunk: (B, 3, S, S) to a tuple of logits, or of maps."""

    def __init__(self, network: Classifier | DenseTrunk | Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Outputs:
        """Map images to the outputs."""
        out = self.network(images)
        return (out,) if isinstance(out, Tensor) else tuple(out.values())


class Processed(nn.Module):
    """A classifier from pixels to probabilities: what other programs need not know is inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network
        # The constants are of values up to 1, pixels go up to 255.
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Outputs:
        """Map (B, S, S, 3) uint8 RGB to probabilities (B, classes) and labels (B,) int64.

        Of classes that do not exclude each other there are probabilities alone.
        """
        images = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        logits = self.network(images)
        if self.network.several_labels:
            return (logits.sigmoid(),)
        return logits.softmax(1), logits.argmax(1)


class FlatDino(nn.Module):
    """DINO with as many detections for every image, without masks; see `Dino.surest`."""

    def __init__(self, network: Dino) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, sizes: Tensor) -> Outputs:
        """Map images and their sizes to boxes, scores and labels."""
        return self.network.surest(images, sizes)


def program_of(
    network: Network, image_size: int | None = None, *, processing: bool = False
) -> Program:
    """The program of a network.

    A classifier, a dense trunk, DINO and a segmenter are exported whole. Of a pre-training network
    it is trunk and pyramid, which is what it was trained for. Of Mask R-CNN too: how many boxes its
    proposal network and its heads look at depends on the image (NMS), which no program of fixed
    shapes has.

    Args:
        network: any, in eval mode; of the size that images will have, but for a detector.
        image_size: S of a detector or segmenter; None: what holds any view, or window, of its
            evaluation.
        processing: of a classifier, whether it takes pixels and gives probabilities.

    Raises:
        ConfigError: processing, and the network is no classifier.
    """
    if processing:
        if not isinstance(network, Classifier) or not network.num_classes:
            raise ConfigError(
                "processing",
                True,
                f"is for classifiers, and this is a {network.config.kind}",
                "Leave it out: the card beside the file tells how its input is made",
            )
        return Program(
            module=Processed(network).eval(),
            inputs=("pixels",),
            outputs=("probabilities", "labels")[: 1 if network.several_labels else 2],
            side=network.image_size,
        )
    if isinstance(network, Dino):
        return Program(
            module=FlatDino(network).eval(),
            inputs=("images", "sizes"),
            outputs=("boxes", "scores", "labels"),
            side=_canvas(network, image_size),
        )
    if isinstance(network, Classifier):
        return Program(
            module=Flat(network).eval(),
            inputs=("images",),
            outputs=("logits",),
            side=network.image_size,
        )
    if isinstance(network, Segmenter):
        return Program(
            module=Flat(network).eval(),
            inputs=("images",),
            outputs=("logits",),
            side=_canvas(network, image_size or network.viewing.window),
        )
    dense, note = _dense_of(network)
    return Program(
        module=Flat(dense).eval(),
        inputs=("images",),
        outputs=tuple(f"stride{stride}" for stride in dense.strides),
        side=_canvas(network, image_size) if isinstance(network, Detector) else dense.image_size,
        note=note,
    )


def _canvas(network: DenseHead, image_size: int | None) -> int:
    """Side of the square that views are padded to: a multiple of 32, 64 at least."""
    # As `padded_sides` pads a batch of one.
    return max(64, -(-(image_size or network.view[1]) // 32) * 32)


def _dense_of(network: Network) -> tuple[DenseTrunk, str]:
    """The dense trunk in a network, and what is left out."""
    if isinstance(network, DenseTrunk):
        return network, ""
    if isinstance(network, Detector):
        return network.trunk, (
            "trunk and pyramid; proposals and heads stay in PyTorch, for NMS leaves a number of "
            "boxes that depends on the image"
        )
    assert isinstance(network, PixelAutoencoder | ClipDistiller)
    config = network.config
    if network.pyramid is None:
        raise ConfigError(
            "file",
            "integral: false",
            "was pre-trained without its pyramid, so there is no program to write",
            "Fine-tune it first",
        )
    dense = build(DenseConfig(trunk=config.trunk, pyramid=config.pyramid, levels=3)).eval()
    assert isinstance(dense, DenseTrunk)
    # What was pre-trained takes the places of what `build` has drawn.
    dense.trunk, dense.pyramid = network.trunk, network.pyramid
    return dense, "trunk and pyramid; what only pre-training needs is left out"


def read_inputs(
    program: Program, network: Network, paths: Sequence[str | PathLike[str]]
) -> Outputs:
    """Images from files as the program's inputs, (n, ...) each, as evaluation would show them.

    Raises:
        DataError: a file that is no image.
    """
    if isinstance(network, DenseHead):
        side = program.side
        views = [WholeView(short_side=min(network.view[0], side), long_side=side)(p) for p in paths]
        # Zero is what a detector sees beyond a view, see `normalise_views`.
        images = torch.zeros(len(views), 3, side, side)
        for place, (view, _) in zip(images, views, strict=True):
            place[:, : view.shape[2], : view.shape[3]] = view[0]
        return (images, torch.cat([size for _, size in views]))[: len(program.inputs)]
    if program.takes_pixels:
        share = network.crop_fraction
        crops = [centre_crop(to_pixels(path), program.side, share) for path in paths]
        # (B, 3, S, S) -> (B, S, S, 3), as the program takes them.
        return (torch.stack(crops).permute(0, 2, 3, 1),)
    return (torch.stack([network.preprocess(path) for path in paths]),)


def metadata_of(network: Network, metadata: Mapping[str, str]) -> dict[str, str]:
    """What an exported weight file says beside its weights: its `metadata`, and the crop."""
    crop = {} if isinstance(network, DenseHead) else {"crop_fraction": str(network.crop_fraction)}
    return {**metadata, **crop}


def input_description(program: Program, network: Network) -> str:
    """JSON for programs that read no weights' metadata: classes, and how to make the input."""
    config = network.pretrained_cfg
    described: dict[str, Any] = {
        "classes": list(network.classes),
        "input_size": [3, program.side, program.side],
        **{name: config[name] for name in ("mean", "std", "interpolation")},
    }
    if program.takes_pixels:
        described |= {"input_size": [program.side, program.side, 3], "input_type": "uint8"}
        # Pixels are normalised inside the program.
        described |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    if isinstance(network, DenseHead):
        described["view"] = list(network.view)
    else:
        described["crop_fraction"] = network.crop_fraction
    return json.dumps(described)


def resized(network: Network, image_size: int, metadata: Mapping[str, str]) -> Network:
    """The same network for images of another size, its position tables resized.

    Its evaluation's crop is the one that `metadata` of its file say; where that is the usual one
    for the old size, it is the usual one for the new.
    """
    trunk = replace(network.config.trunk, image_size=image_size)
    config: Any = replace(network.config, trunk=trunk)
    other = build(config).eval()
    load_weights(other, network.state_dict())
    remembered = dict(metadata)
    # A usual crop follows the size; one that was set stays.
    if network.crop_fraction == crop_fraction(network.image_size):
        remembered.pop("crop_fraction", None)
    other.remember(remembered)
    return other
