"""Draws: reproducible, equal in NumPy and torch, uniform, and independent across their keys."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itpn_ray.rng import Stream, permutation, uniform, uniform_torch

INTEGERS = st.integers(min_value=-(2**40), max_value=2**70)
IDS = st.lists(st.integers(min_value=0, max_value=2**62), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(seed=INTEGERS, epoch=st.integers(0, 10**6), ids=IDS, stream=st.sampled_from(Stream))
def test_torch_equals_numpy_bit_for_bit(
    seed: int, epoch: int, ids: list[int], stream: Stream
) -> None:
    expected = uniform(seed, epoch, ids, stream, 7)
    tensor = torch.tensor(ids, dtype=torch.int64)
    doubles = uniform_torch(seed, epoch, tensor, stream, 7, torch.float64)
    singles = uniform_torch(seed, epoch, tensor, stream, 7)
    np.testing.assert_array_equal(doubles.numpy(), expected)
    np.testing.assert_array_equal(singles.numpy(), np.floor(expected * 2**24) / 2**24)


KNOWN = [
    [0.049305718854713354, 0.8779475400965547],
    [0.9686768562358347, 0.8666327552820698],
    [0.582951037580544, 0.9730286602933705],
]
KNOWN_ORDER = [2, 7, 4, 0, 5, 6, 1, 3]


def test_known_values_stay_the_same() -> None:
    """A change here changes every run's order, crops and masks: resumed runs would differ."""
    drawn = uniform(0, 0, [0, 1, 2**40], Stream.CROP, 2)
    np.testing.assert_array_equal(drawn, KNOWN)
    assert permutation(7, 3, 8).tolist() == KNOWN_ORDER


def test_columns_do_not_depend_on_how_many_are_drawn() -> None:
    ids = np.arange(5)
    np.testing.assert_array_equal(
        uniform(1, 2, ids, Stream.MASK, 9)[:, :4], uniform(1, 2, ids, Stream.MASK, 4)
    )


def test_draws_are_uniform() -> None:
    drawn = uniform(3, 1, np.arange(50_000), Stream.MASK, 8)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=64, range=(0, 1))
    expected = drawn.size / 64
    chi_square = float(((counts - expected) ** 2 / expected).sum())  # 63 degrees of freedom
    assert 25 < chi_square < 120


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 0, 0, Stream.CROP), (1, 0, 0, Stream.CROP)),
        ((0, 0, 0, Stream.CROP), (0, 1, 0, Stream.CROP)),
        ((1, 0, 0, Stream.CROP), (0, 1, 0, Stream.CROP)),
        ((0, 0, 0, Stream.CROP), (0, 0, 1, Stream.CROP)),
        ((0, 0, 0, Stream.CROP), (0, 0, 0, Stream.FLIP)),
    ],
    ids=["seed", "epoch", "seed and epoch swapped", "next sample", "stream"],
)
def test_neighbouring_keys_are_uncorrelated(
    first: tuple[int, int, int, Stream], second: tuple[int, int, int, Stream]
) -> None:
    columns = []
    for seed, epoch, shift, stream in (first, second):
        columns.append(uniform(seed, epoch, np.arange(20_000) + shift, stream, 1)[:, 0])
    assert abs(np.corrcoef(columns[0], columns[1])[0, 1]) < 0.03  # 4 standard errors: 0.028


def test_columns_of_one_sample_are_uncorrelated() -> None:
    drawn = uniform(0, 0, np.arange(20_000), Stream.AUGMENT, 6)
    correlation = np.corrcoef(drawn.T) - np.eye(6)
    assert np.abs(correlation).max() < 0.03


def test_permutation_holds_each_number_once_and_varies() -> None:
    first, again, later = permutation(5, 0, 1000), permutation(5, 0, 1000), permutation(5, 1, 1000)
    assert first.dtype == np.int64
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(first, again)
    assert (first == later).mean() < 0.02
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.13


def test_the_numpy_part_does_not_import_torch() -> None:
    code = "import sys, itpn_ray.rng; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
