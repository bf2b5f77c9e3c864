"""Counter-based random numbers: every draw is a pure function of (seed, epoch, sample id, stream).

No draw depends on the rank, on the number of workers or on what was drawn before, so any run can
be continued at any step and on any number of machines. The generator is the finaliser of
SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014)
applied to keyed counters; NumPy and PyTorch give the same bits.

torch is imported only where a torch function is called.
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # odd, 2^64 / golden ratio: the step between neighbouring counters
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


@unique
class Stream(IntEnum):
    """What a draw is for; two purposes never share numbers. Values are fixed: append only."""

    ORDER = 0
    CROP = 1
    FLIP = 2
    MIX = 3
    ERASE = 4
    MASK = 5
    DROP_PATH = 6
    AUGMENT = 7
    INIT = 8
    SIZE = 9
    SHARDS = 10
    ANCHORS = 11
    REGIONS = 12
    DENOISING = 13
    REDUCTION = 14
    IMAGE = 15
    SWEEP = 16
    MIGRATION = 17
    COLOUR = 18
    DROPOUT = 19
    TURN = 20
    POINTS = 21


def uniform(
    seed: int, epoch: int, ids: npt.ArrayLike, stream: int, n: int
) -> npt.NDArray[np.float64]:
    """Draw ``n`` numbers in [0, 1) for each sample.

    Args:
        seed: the run's seed; any integer.
        epoch: the epoch the sample is drawn in; any integer.
        ids: (B,) int64 sample ids.
        stream: what the draw is for, see `Stream`.
        n: draws a sample.

    Returns:
        (B, n) float64 with 53 random bits; column j does not depend on ``n``.
    """
    words = _hash(_key(seed, epoch, stream), np.asarray(ids, np.int64).astype(np.uint64))
    columns = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    words = _finalise(words[:, None] + columns[None, :])  # (B, n)
    # 53 bits, all that a float64 holds below 1.
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform_torch(
    seed: int,
    epoch: int,
    ids: torch.Tensor,
    stream: int,
    n: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Draw as `uniform` does, on the device of ``ids``.

    Args:
        seed: the run's seed; any integer.
        epoch: the epoch the sample is drawn in; any integer.
        ids: (B,) int64 sample ids on any device.
        stream: what the draw is for, see `Stream`.
        n: draws a sample.
        dtype: float32 (default) or float64.

    Returns:
        (B, n) in [0, 1). float64 is bit-equal to `uniform`; float32 keeps the first 24 bits of
        the same number (cut, not rounded, so 1.0 never appears).
    """
    import torch

    words = _hash_torch(_key(seed, epoch, stream), ids)
    columns = torch.arange(1, n + 1, dtype=torch.int64, device=ids.device) * _signed(_GOLDEN)
    words = _finalise_torch(words[:, None] + columns[None, :])  # (B, n)
    if dtype == torch.float64:
        return _shift_right(words, 11).to(torch.float64) * 2.0**-53
    # 24 bits, all that a float32 holds.
    return _shift_right(words, 40).to(torch.float32) * 2.0**-24


def image_seeds(seed: int, epoch: int, ids: torch.Tensor) -> torch.Tensor:
    """A seed for each image's own draws in an epoch, where there are many of several kinds.

    Args:
        seed: the run's seed; any integer.
        epoch: the epoch.
        ids: (B,) int64 sample ids on any device.

    Returns:
        (B,) int64 below 2^53.
    """
    import torch

    draws = uniform_torch(seed, epoch, ids, Stream.IMAGE, 1, torch.float64)[:, 0]
    return (draws * 2.0**53).to(torch.int64)


def permutation(
    seed: int, epoch: int, count: int, stream: int = Stream.ORDER
) -> npt.NDArray[np.int64]:
    """Return a random order of ``range(count)``, (count,) int64, a function of (seed, epoch)."""
    # Sorting random words gives each order the same chance; a tie among 2^64 does not matter.
    words = _hash(_key(seed, epoch, stream), np.arange(count, dtype=np.uint64))
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def _mix(word: int) -> int:
    """SplitMix64's finaliser on one Python integer."""
    word = ((word ^ (word >> 30)) * _MIX1) & _WORD
    word = ((word ^ (word >> 27)) * _MIX2) & _WORD
    return word ^ (word >> 31)


def _key(seed: int, epoch: int, stream: int) -> int:
    """Fold (seed, epoch, stream) into one 64-bit key; each is mixed before the next enters."""
    key = 0
    for part in (seed, epoch, stream):
        key = _mix((key + _GOLDEN + part) & _WORD)
    return key


def _hash(key: int, ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return _finalise(ids * np.uint64(_GOLDEN) + np.uint64(key))


def _finalise(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_MIX1)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_MIX2)
    return words ^ (words >> np.uint64(31))


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned word: torch has no arithmetic on uint64."""
    return word - (1 << 64) if word >> 63 else word


def _hash_torch(key: int, ids: torch.Tensor) -> torch.Tensor:
    return _finalise_torch(ids * _signed(_GOLDEN) + _signed(key))


def _finalise_torch(words: torch.Tensor) -> torch.Tensor:
    words = (words ^ _shift_right(words, 30)) * _signed(_MIX1)
    words = (words ^ _shift_right(words, 27)) * _signed(_MIX2)
    return words ^ _shift_right(words, 31)


def _shift_right(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift in zeros: the ``>>`` of int64 would shift in the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
