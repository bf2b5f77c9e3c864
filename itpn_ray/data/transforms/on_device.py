"""What happens to a batch on the device: copies, normalisation, mixing and erasing.

Every draw is a function of (seed, epoch, sample id). Shapes: B images of C = 3 channels,
H x W pixels; K classes.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from functools import cache

import torch
from torch import Tensor

from itpn_ray.models.config import IMAGENET_MEAN, IMAGENET_STD
from itpn_ray.rng import Stream, uniform_torch

Batch = dict[str, Tensor]

# As torchvision's and timm's erasing; drawn at once, see `crops`.
_ATTEMPTS = 10


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to a device; from pinned memory without waiting for the copy."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def prefetch(batches: Iterable[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Copy batches to a device, on a GPU one batch ahead and beside the computation.

    Args:
        batches: host batches, pinned where the copies are to be asynchronous.
        device: where to.
    """
    if device.type != "cuda":
        for batch in batches:
            yield to_device(batch, device)
        return
    copying = torch.cuda.Stream(device)
    ready: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            copied = to_device(batch, device)
        if ready is not None:
            yield ready
        current = torch.cuda.current_stream(device)
        # The computation must not read what is not copied yet.
        current.wait_stream(copying)
        for tensor in copied.values():
            # The allocator must not hand this memory to the next copy while it is in use.
            tensor.record_stream(current)
        ready = copied
    if ready is not None:
        yield ready


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (B, 3, H, W) -> (B, 3, H, W) contiguous, with ImageNet's mean 0 and deviation 1."""
    mean, scale = _statistics(images.device)
    # The batch lies channels last, as it was decoded; the networks take the usual layout.
    floats = images.to(torch.float32, memory_format=torch.contiguous_format)
    # In place, and a product for the quotient: no further copy of the batch.
    return floats.sub_(mean).mul_(scale).to(dtype)


def normalise_views(images: Tensor, sizes: Tensor) -> Tensor:
    """As `normalise`, and zero where a view does not fill its image (detection).

    Args:
        images: uint8 (B, 3, H, W).
        sizes: (B, 2) int64, height and width of each view.
    """
    height, width = images.shape[2:]
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]  # (B, H)
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]  # (B, W)
    return normalise(images).mul_((rows[:, :, None] & columns[:, None, :])[:, None])


def mix(
    images: Tensor,
    targets: Tensor,
    ids: Tensor,
    *,
    seed: int,
    epoch: int,
    mixup: float,
    cutmix: float,
) -> tuple[Tensor, Tensor]:
    """Mix the images at positions (2i, 2i + 1) with each other, by mixup or by cutmix.

    One weight and one box serve both of a pair; where both kinds are on, each is as likely. An
    odd last image stays as it is (Zhang et al., "mixup", 2018; Yun et al., "CutMix", 2019).

    Args:
        images: (B, 3, H, W) float.
        targets: (B, K) float, rows that sum to 1.
        ids: (B,) int64 sample ids; a pair draws by its first one.
        seed: the run's seed.
        epoch: the epoch.
        mixup: α of the Beta distribution of mixup's weight; 0 turns it off.
        cutmix: α of the Beta distribution of the kept fraction of the area; 0 turns it off.

    Returns:
        Mixed images (B, 3, H, W) and targets (B, K).
    """
    pairs = len(images) // 2
    if pairs == 0 or (mixup == 0 and cutmix == 0):
        return images, targets
    height, width = images.shape[2:]
    # Both of a pair must get the same numbers, so one id of the two decides.
    first = ids[: 2 * pairs : 2]
    draws = uniform_torch(seed, epoch, first, Stream.MIX, 5, torch.float64)  # (pairs, 5)
    cut_fraction = 0.5 if mixup > 0 and cutmix > 0 else float(cutmix > 0)
    cut = draws[:, 0] < cut_fraction  # (pairs,)
    # 1 where a kind is off: both are computed for all pairs, and one is chosen below.
    blended = _beta(draws[:, 1], draws[:, 2], mixup or 1.0)
    # The same two draws: a pair is mixed in one way only.
    kept = _beta(draws[:, 1], draws[:, 2], cutmix or 1.0)
    # The box takes 1 - kept of the area; cut at the border it takes less, see `weight`.
    outside = ~_centred_boxes(draws[:, 3:5], (1 - kept).sqrt(), height, width)  # (pairs, H, W)
    area = outside.sum((1, 2)).double() / (height * width)  # (pairs,)
    weight = torch.where(cut, area, blended)[:, None]  # (pairs, 1) the fraction of the label
    # In the images' own type: as float64 it would be larger than the images themselves.
    outside, blended = outside.to(images.dtype), blended.to(images.dtype)
    own = torch.where(cut[:, None, None], outside, blended[:, None, None])[:, None]
    return _blend(images, own, pairs), _blend(targets, weight.to(targets.dtype), pairs)


def erase(images: Tensor, ids: Tensor, *, seed: int, epoch: int, probability: float) -> Tensor:
    """Replace a rectangle of some images by normal noise (Zhong et al., "Random erasing", 2020).

    The rectangle has 2 % to 33 % of the area and height/width from 0.3 to 3.3, log-uniform; the
    first of ten attempts that fits is taken.

    Args:
        images: (B, 3, H, W) float, normalised.
        ids: (B,) int64 sample ids.
        seed: the run's seed.
        epoch: the epoch.
        probability: that an image is touched.

    Returns:
        (B, 3, H, W), a new tensor where anything is erased.
    """
    if probability == 0:
        return images
    height, width = images.shape[2:]
    draws = uniform_torch(seed, epoch, ids, Stream.ERASE, 2 * _ATTEMPTS + 5, torch.float64)
    # The paper's and timm's limits: 2 % to a third of the image.
    area = height * width * (0.02 + draws[:, :_ATTEMPTS] * (1 / 3 - 0.02))  # (B, attempts)
    low, high = math.log(0.3), math.log(1 / 0.3)
    aspect = (low + draws[:, _ATTEMPTS : 2 * _ATTEMPTS] * (high - low)).exp()
    tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (tall < height) & (wide < width)
    # argmax gives the first of equal values; PyTorch has none for booleans.
    first = fits.to(torch.uint8).argmax(1, keepdim=True)  # (B, 1)
    tall, wide = tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0]
    chosen, top, left, down, right = draws[:, 2 * _ATTEMPTS :].unbind(1)
    top = (top * (height - tall + 1)).floor()
    left = (left * (width - wide + 1)).floor()
    inside = _inside(top, left, top + tall, left + wide, height, width)  # (B, H, W)
    inside &= ((chosen < probability) & fits.any(1))[:, None, None]
    noise = _noise(down, right, height, width, seed, epoch).to(images.dtype)
    return torch.where(inside[:, None], noise, images)


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of bytes, (3, 1, 1); kept, since making them waits for a GPU."""
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1) * 255.0
    return mean, 1.0 / (torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1) * 255.0)


def _beta(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """Beta(α, α) from two uniform draws: Student's t with 2α degrees of freedom, squashed.

    The t variate is Bailey's ("Polar generation of random variates with the t-distribution",
    Mathematics of Computation 62, 1994).
    """
    angle = (2 * math.pi * second).cos()
    # For small α the power overflows to infinity, which the next line takes to 0 or 1.
    odds = ((1 - first) ** (-1 / alpha) - 1) * angle**2  # t² / 2α
    return 0.5 + 0.5 * angle.sign() / (1 + 1 / odds).sqrt()


def _centred_boxes(centres: Tensor, sides: Tensor, height: int, width: int) -> Tensor:
    """Boxes around random centres, cut at the border: (n, H, W) bool.

    Args:
        centres: (n, 2) uniform draws: y, x.
        sides: (n,) height and width of each box as fractions of the image's.
        height: H.
        width: W.
    """
    y, x = (centres[:, 0] * height).floor(), (centres[:, 1] * width).floor()
    tall, wide = (sides * height).floor(), (sides * width).floor()
    top, left = y - (tall / 2).floor(), x - (wide / 2).floor()
    return _inside(top, left, top + tall, left + wide, height, width)


def _inside(
    top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int
) -> Tensor:
    """Which pixels lie in half-open boxes, (n,) each: (n, H, W) bool."""
    y = torch.arange(height, device=top.device)[None, :]
    x = torch.arange(width, device=top.device)[None, :]
    rows = (y >= top[:, None]) & (y < bottom[:, None])  # (n, H)
    columns = (x >= left[:, None]) & (x < right[:, None])  # (n, W)
    return rows[:, :, None] & columns[:, None, :]


def _blend(values: Tensor, own: Tensor, pairs: int) -> Tensor:
    """Own · value + (1 - own) · partner's value, for the pairs (2i, 2i + 1)."""
    paired = values[: 2 * pairs].unflatten(0, (pairs, 2))  # (pairs, 2, ...)
    own = own[:, None]  # (pairs, 1, ...)
    blended = own * paired + (1 - own) * paired.flip(1)
    return torch.cat([blended.flatten(0, 1), values[2 * pairs :]])  # (B, ...)


def _noise(down: Tensor, right: Tensor, height: int, width: int, seed: int, epoch: int) -> Tensor:
    """Normal noise (B, 3, H, W): one field an epoch, shifted for each image by its draws.

    One field, because a number for each pixel of each image would cost more than the mixing.
    """
    rows = torch.arange(-3 * height, 0, device=down.device)  # no sample has a negative id
    field = uniform_torch(seed, epoch, rows, Stream.ERASE, width, torch.float64)  # (3H, W)
    # Half a step up, for the normal quantile of 0 is minus infinity.
    field = torch.special.ndtri(field + 2.0**-54).float().view(3, height, width)
    y = (torch.arange(height, device=down.device) + (down * height).long()[:, None]) % height
    x = (torch.arange(width, device=down.device) + (right * width).long()[:, None]) % width
    return field[:, y[:, :, None], x[:, None, :]].transpose(0, 1)  # (3, B, H, W) -> (B, 3, H, W)
