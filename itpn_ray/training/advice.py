"""Where a plan's numbers are legal but unwise, with the options that would be better."""

from __future__ import annotations

import time

import numpy as np
import torch

from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.formatting import show_duration
from itpn_ray.models.config import PATCH

FEW_STEPS = 20
"""Steps an epoch, below which a batch is large for its data."""
GOOD_STEPS = 50
"""Steps an epoch that the advised batch leaves, at least."""
LEAST_BATCH = 16
RATE_EXPONENT = 0.5
"""Power of the batch with which learning rates change: its square root. AdamW divides a step by the
gradient's own size, so what a smaller batch changes is the gradient's noise, whose standard
deviation grows with the root (Malladi et al., 2022). The proportional rule is SGD's (Goyal et al.,
2017): over a factor of 32 its rate would be too low by nearly six times."""
PAYING_TOKENS = 1024
"""Tokens an image from which migration was measured to gain more than its bookkeeping costs, see
docs/benchmarks/acceleration.md: at 512 px."""
UNEVEN = 10
"""Times as many images as the rarest class has, from which the commonest drowns it."""
LONGEST_TIMING_S = 600.0
_STEP = 2 * PATCH  # pixels between the sizes that are advised
_SIDE, _ROUNDS = 512, 3


def find_advice(config: ExperimentConfig, train: ShardedDataset) -> list[str]:
    """What would better be otherwise: batch, image size, migration, classes; one line each.

    Raises:
        DataError: the data's index is damaged.
    """
    found = (
        _batch(config, len(train)),
        _enlarged(config, train),
        _tokens(config),
        _uneven(config, train),
    )
    return [advice for advice in found if advice]


def refuse_long_timing(adds: int, images: int, steps: int) -> float:
    """Seconds that timing steps takes on this CPU at least, if that is not too long.

    Args:
        adds: multiply-adds of an image's forward pass.
        images: a step.
        steps: to time.

    Returns:
        Seconds at the rate of a plain matrix product; a backward pass costs twice a forward one.

    Raises:
        ConfigError: it would take more than ten minutes.
    """
    # Forward once, backward twice as much.
    seconds = 3 * adds * images * steps / cpu_rate()
    if seconds > LONGEST_TIMING_S:
        raise ConfigError(
            "measured_steps",
            steps - 1,
            f"timing a step of {images:,} images on this CPU would take {show_duration(seconds)} "
            "or more",
            "Plan on a machine as the run would use, or with a smaller --optim.global-batch",
        )
    return seconds


def cpu_rate() -> float:
    """Multiply-adds a second of this CPU in a matrix product, with PyTorch's threads."""
    matrix = torch.rand(_SIDE, _SIDE)
    matrix @ matrix  # wakes the threads up
    begin = time.perf_counter()
    for _ in range(_ROUNDS):
        matrix @ matrix
    # A product of two S x S matrices has S**3 multiply-adds.
    return _ROUNDS * _SIDE**3 / (time.perf_counter() - begin)


def _batch(config: ExperimentConfig, images: int) -> str:
    """A batch that leaves enough steps, and the rate that goes with it."""
    batch, steps = config.optim.global_batch, images // config.optim.global_batch
    if not 0 < steps < FEW_STEPS:
        return ""
    # A power of two, as people choose batches.
    smaller = max(LEAST_BATCH, 2 ** int(np.log2(max(images // GOOD_STEPS, 1))))
    if smaller >= batch:
        return ""
    rate = rate_of_batch(config.optim.lr, batch, smaller)
    times = "step" if steps == 1 else "steps"
    return (
        f"with batches of {batch:,}, {images:,} images make {steps} {times} an epoch: use smaller "
        f"ones with --optim.global-batch {smaller} --optim.lr {rate:.2g} (the learning rate "
        "changes with the square root of the batch)"
    )


def rate_of_batch(rate: float, batch: int, other: int) -> float:
    """The learning rate for batches of another size, from the one that suits ``batch``."""
    return rate * (other / batch) ** RATE_EXPONENT


def _enlarged(config: ExperimentConfig, train: ShardedDataset) -> str:
    """Whether most images are smaller than what the network sees of them."""
    sides = np.minimum(train.index.column("width"), train.index.column("height"))
    usual = int(np.median(sides))
    size, option = config.task.input_side(config.model)
    # Rounded up, so that an image of usual size loses none of its pixels.
    fitting = max(_STEP, -(-usual // _STEP) * _STEP)
    if fitting >= size:
        return ""
    # The cost follows the number of tokens, hence the area.
    return (
        f"the shorter side of half of the images is {usual} px or less, and they are enlarged to "
        f"{size}: {option} {fitting} costs about {(fitting / size) ** 2:.0%} of the time"
    )


def _tokens(config: ExperimentConfig) -> str:
    """Whether there are too few tokens for migration to gain speed."""
    side, _ = config.task.input_side(config.model)
    tokens = (side // PATCH) ** 2
    if not config.model.migration or tokens >= PAYING_TOKENS:
        return ""
    return (
        f"an image has {tokens} tokens, too few for r = {config.model.migration:g} to gain speed: "
        f"it pays from about {PAYING_TOKENS:,}; leave out --model.migration"
    )


def _uneven(config: ExperimentConfig, train: ShardedDataset) -> str:
    """Whether rare classes are drowned by frequent ones."""
    option = config.task.balancing
    counts = train.manifest.splits[train.split].class_counts
    there = [(count, name) for count, name in zip(counts, train.classes, strict=True) if count]
    if not option or not there:
        return ""
    (fewest, rare), (most, frequent) = min(there), max(there)
    if most < UNEVEN * fewest:
        return ""
    return (
        f"{frequent} has {most / fewest:.0f} times the images of {rare} ({most:,} and {fewest:,}): "
        f"{option} lets both count the same; mean recall tells how rare classes fare"
    )
