"""Order: the same global batches for any number of workers, each sample in its place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itpn_ray.data.loading.order import TrainOrder, evaluation_rows, share
from itpn_ray.errors import ConfigError


def make_order(rows: list[int], **options: int) -> TrainOrder:
    return TrainOrder(starts=np.cumsum([0, *rows]), **{"global_batch": 8, "seed": 1, **options})


@given(batch=st.integers(1, 300), world=st.integers(1, 40))
def test_shares_are_even_aligned_and_cover_the_batch_once(batch: int, world: int) -> None:
    if batch // 2 < world and world > 1:
        with pytest.raises(ConfigError, match="global_batch"):
            share(batch, 0, world)
        return
    spans = [share(batch, rank, world) for rank in range(world)]
    assert spans[0][0] == 0
    assert spans[-1][1] == batch
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert all(start % 2 == 0 for start, _ in spans)
    pairs = [(stop - start) // 2 for start, stop in spans]
    assert max(pairs) - min(pairs) <= 1


def test_an_epoch_holds_each_row_at_most_once_and_drops_the_rest() -> None:
    ids = make_order([30, 30, 7]).epoch(4)
    assert ids.shape == (8, 8)
    assert len(np.unique(ids)) == 64
    assert ids.min() >= 0
    assert ids.max() < 67


def test_epochs_and_seeds_differ() -> None:
    order = make_order([100])
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert not np.array_equal(order.epoch(0), make_order([100], seed=2).epoch(0))
    np.testing.assert_array_equal(order.epoch(1), make_order([100]).epoch(1))


def test_repeated_rows_stand_in_one_batch_apart_from_each_other() -> None:
    order = make_order([90], global_batch=12, repeats=3)
    ids = order.epoch(0)
    assert ids.shape == (7, 12)
    assert len(np.unique(ids)) == 84  # each id draws its own crop
    for batch in ids:
        counts = np.unique(batch % 90, return_counts=True)[1]
        assert counts.tolist() == [3, 3, 3, 3]
        assert not (batch[0::2] % 90 == batch[1::2] % 90).any()


@pytest.mark.parametrize("batch", [8, 10, 14])
def test_repeats_that_do_not_divide_the_batch_keep_partners_different(batch: int) -> None:
    ids = make_order([90], global_batch=batch, repeats=3).epoch(0)
    assert len(np.unique(ids)) == ids.size
    assert not (ids[:, 0::2] % 90 == ids[:, 1::2] % 90).any()


def test_a_window_of_shards_is_used_up_before_the_next_begins() -> None:
    rows = [10, 20, 5, 15, 10, 20]
    order = make_order(rows, window=2, global_batch=2)
    shard = np.repeat(np.arange(6), rows)
    orders = []
    for epoch in range(3):
        ids = order.epoch(epoch).ravel()
        assert sorted(ids) == list(range(80))
        used = shard[ids]
        windows, place = [], 0
        while place < 80:
            window = set(used[place : place + 6].tolist())
            size = sum(rows[s] for s in window)
            assert len(window) == 2
            assert set(used[place : place + size].tolist()) == window
            windows.append(window)
            place += size
        orders.append(windows)
        assert np.abs(np.diff(ids)).mean() > 3  # shuffled within the window
    assert orders[0] != orders[1] or orders[1] != orders[2]


def test_fewer_rows_than_a_global_batch_is_told_with_the_mend() -> None:
    with pytest.raises(ConfigError, match=r"7 images.*0 steps.*at most 6"):
        make_order([7])


@settings(max_examples=30)
@given(count=st.integers(0, 200), world=st.integers(1, 9))
def test_evaluation_takes_each_row_once(count: int, world: int) -> None:
    shares = [evaluation_rows(count, rank, world) for rank in range(world)]
    np.testing.assert_array_equal(np.concatenate(shares), np.arange(count))
    sizes = [len(rows) for rows in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes)  # rank 0 draws images: it has one if there is any
