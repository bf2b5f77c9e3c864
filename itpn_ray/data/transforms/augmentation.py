"""Colour and geometry after the crop: RandAugment, three-augment, colour jitter, by our own draws.

torchvision's random transforms take their numbers from torch's global generator, which threads
share; here every choice comes from (seed, epoch, sample id). Images are (3, S, S) uint8.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from itpn_ray.data.config import AugmentConfig
from itpn_ray.rng import Stream, uniform

Draws = npt.NDArray[np.float64]
Policy = Callable[[Tensor, Draws], Tensor]
"""Changes one image by its uniform draws."""

_FILL: list[float] = [
    124,
    116,
    104,
]  # ImageNet's mean colour, where a geometric change uncovers the border
# Half of a byte's range, as DeiT III's solarise and timm's solarise-add have it.
_THRESHOLD = 128
# Which operation, whether at all, its sign, and two for a normal strength.
_DRAWS_PER_OP = 5
_ORDERS = tuple(itertools.permutations(range(3)))


def draws_per_image(config: AugmentConfig) -> int:
    """Uniform numbers that the policy takes for each image."""
    return {
        "none": 0,
        "rand_augment": _DRAWS_PER_OP * config.num_ops,
        "three_augment": 6,
        "color_jitter": 4,
    }[config.policy]


def policy_draws(config: AugmentConfig, seed: int, epoch: int, ids: npt.NDArray[np.int64]) -> Draws:
    """The draws of a batch for `make_policy`, (B, draws_per_image)."""
    return uniform(seed, epoch, ids, Stream.AUGMENT, draws_per_image(config))


def make_policy(config: AugmentConfig) -> Policy | None:
    """The policy that the configuration names; ``None`` for ``none``."""
    if config.policy == "rand_augment":
        return partial(rand_augment, magnitude=config.magnitude)
    if config.policy == "three_augment":
        return partial(three_augment, jitter=config.jitter)
    if config.policy == "color_jitter":
        return partial(color_jitter, jitter=config.jitter)
    return None


def rand_augment(image: Tensor, draws: Draws, magnitude: float) -> Tensor:
    """Apply random operations, each with probability 1/2, at about one strength.

    As timm's ``rand-m9-mstd0.5-inc1``, which the fine-tuning recipes use: fifteen operations, all
    the stronger the larger the magnitude; strength is normal with deviation 0.5 around it, cut to
    0..10 (Cubuk et al., "RandAugment", 2020).

    Args:
        image: (3, S, S) uint8.
        draws: (5 n,) for n operations.
        magnitude: mean strength, 0 to 10.
    """
    for which, applied, sign, first, second in draws.reshape(-1, _DRAWS_PER_OP).tolist():
        if applied >= 0.5:
            continue
        # Box and Muller: two uniform draws make a normal one. 1 - first is never 0.
        normal = math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)
        # The deviation of mstd0.5; 10 is the largest magnitude that the operations are made for.
        strength = min(max(magnitude + 0.5 * normal, 0.0), 10.0) / 10
        operation = OPERATIONS[int(which * len(OPERATIONS))]
        image = operation(image, strength, 1.0 if sign < 0.5 else -1.0)
    return image


def three_augment(image: Tensor, draws: Draws, jitter: float) -> Tensor:
    """Grey, solarise or blur, then vary the colours (Touvron et al., "DeiT III", 2022).

    Args:
        image: (3, S, S) uint8.
        draws: (6,): which, how much blur, brightness, contrast, saturation, their order.
        jitter: brightness, contrast and saturation are multiplied by 1 ± this.
    """
    which, blur, *factors, order = draws.tolist()
    if which < 1 / 3:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    elif which < 2 / 3:
        image = F.solarize(image, _THRESHOLD)
    else:
        # 0.1 to 2, as DeiT III's blur.
        sigma = 0.1 + 1.9 * blur
        # The border is mirrored, which an image of few pixels is too small for at full reach.
        # Three deviations hold 99.7 % of the weight.
        reach = min(math.ceil(3 * sigma), min(image.shape[1:]) - 1)
        image = F.gaussian_blur(image, [2 * reach + 1] * 2, [sigma, sigma])
    return _jitter(image, factors, order, jitter)


def color_jitter(image: Tensor, draws: Draws, jitter: float) -> Tensor:
    """Vary brightness, contrast and saturation, as the authors' pre-training on CLIP does.

    Args:
        image: (3, S, S) uint8.
        draws: (4,): brightness, contrast, saturation, their order.
        jitter: each is multiplied by 1 ± this.
    """
    *factors, order = draws.tolist()
    return _jitter(image, factors, order, jitter)


def _jitter(image: Tensor, factors: Sequence[float], order: float, jitter: float) -> Tensor:
    changes = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation]
    # One draw picks one of the six orders.
    for index in _ORDERS[int(order * len(_ORDERS))]:
        image = changes[index](image, 1 + jitter * (2 * factors[index] - 1))
    return image


# Operations of RandAugment: image, strength 0..1, sign +1 or -1.


def _posterize(image: Tensor, strength: float, sign: float) -> Tensor:
    del sign
    # Bits that are left, 4 down to 1: with none the image would be black.
    return F.posterize(image, max(4 - int(strength * 4), 1))


def _solarize(image: Tensor, strength: float, sign: float) -> Tensor:
    """Invert what is at least as bright as 256 at no strength, and 0 at full strength."""
    del sign
    threshold = 256 - int(strength * 256)
    # torchvision refuses a threshold that no byte reaches.
    return image if threshold > 255 else F.solarize(image, threshold)


def _solarize_add(image: Tensor, strength: float, sign: float) -> Tensor:
    """Brighten what is dark."""
    del sign
    # 110 is timm's largest addition; in 16 bits, for a byte would wrap around.
    brighter = (image.to(torch.int16) + int(strength * 110)).clamp_(max=255).to(torch.uint8)
    return torch.where(image < _THRESHOLD, brighter, image)


def _enhance(
    change: Callable[[Tensor, float], Tensor], image: Tensor, strength: float, sign: float
) -> Tensor:
    # 0.1 to 1.9: timm's increasing levels, which never take all colour away.
    return change(image, max(0.1, 1 + 0.9 * strength * sign))


def _rotate(image: Tensor, strength: float, sign: float) -> Tensor:
    # 30 degrees and, below, a shear of 0.3 and a shift of 0.45 are RandAugment's largest.
    angle = 30 * strength * sign
    return F.rotate(image, angle, InterpolationMode.BILINEAR, fill=_FILL)


def _move(
    shear: tuple[float, float],
    shift: tuple[float, float],
    image: Tensor,
    strength: float,
    sign: float,
) -> Tensor:
    """Shear by a tangent or shift by a fraction of the side, both as at full strength."""
    amount = strength * sign
    height, width = image.shape[1:]
    # torchvision takes shears as angles.
    return F.affine(
        image,
        angle=0.0,
        translate=[shift[0] * amount * width, shift[1] * amount * height],
        scale=1.0,
        shear=[math.degrees(math.atan(tangent * amount)) for tangent in shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=_FILL,
    )


OPERATIONS: tuple[Callable[[Tensor, float, float], Tensor], ...] = (
    lambda image, strength, sign: F.autocontrast(image),
    lambda image, strength, sign: F.equalize(image),
    lambda image, strength, sign: F.invert(image),
    _rotate,
    _posterize,
    _solarize,
    _solarize_add,
    partial(_enhance, F.adjust_saturation),
    partial(_enhance, F.adjust_contrast),
    partial(_enhance, F.adjust_brightness),
    partial(_enhance, F.adjust_sharpness),
    partial(_move, (0.3, 0.0), (0.0, 0.0)),
    partial(_move, (0.0, 0.3), (0.0, 0.0)),
    partial(_move, (0.0, 0.0), (0.45, 0.0)),
    partial(_move, (0.0, 0.0), (0.0, 0.45)),
)
"""What RandAugment chooses from, each as likely."""
