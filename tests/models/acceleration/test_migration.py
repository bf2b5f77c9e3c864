from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.models.acceleration.migration import (
    SURE,
    Tokens,
    leave_counts,
    migrate,
    replenish,
    similarity,
    survivors,
)

sizes = st.tuples(st.integers(1, 3), st.integers(2, 80), st.integers(1, 6), st.integers(0, 999))


def new_tokens(batch: int, count: int, width: int, seed: int) -> tuple[Tokens, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, count, width, generator=generator)
    return Tokens(values, torch.arange(count).expand(batch, -1)), generator


def new_keys(tokens: Tokens, generator: torch.Generator, heads: int = 2) -> Tensor:
    batch, count = tokens.positions.shape
    return torch.randn(batch, heads, count, 4, generator=generator)


@given(st.integers(1, 5000), st.floats(0, 0.5), st.integers(1, 40))
def test_counts_are_even_and_sum_to_the_share(tokens: int, ratio: float, depth: int) -> None:
    counts = leave_counts(tokens, ratio, depth)
    assert len(counts) == depth
    assert sum(counts) == round(ratio * tokens)
    assert max(counts) - min(counts) <= 1


def test_counts_of_the_base_network_at_1024_pixels() -> None:
    counts = leave_counts(4096, 0.3, 24)
    assert sum(counts) == 1229
    assert set(counts) == {51, 52}


def test_a_ratio_that_leaves_no_partner_is_refused() -> None:
    with pytest.raises(ConfigError, match="smaller ratio"):
        leave_counts(16, 0.9, 1)
    assert leave_counts(4096, 0.9, 24)


@settings(deadline=None, max_examples=60)
@given(sizes, st.floats(0, 0.33), st.integers(1, 6), st.integers(0, 1))
def test_every_token_comes_back_once_at_its_place(
    size: tuple[int, int, int, int], ratio: float, depth: int, first: int
) -> None:
    batch, count, width, seed = size
    whole, generator = new_tokens(batch, count, width, seed)
    tokens, store = whole, ()
    counts = leave_counts(count - first, ratio, depth)
    for leaving in counts:
        keys = new_keys(tokens, generator)
        kept, store = migrate(tokens, keys, leaving, store, first=first)
        assert kept.values.shape == (batch, tokens.values.shape[1] - leaving, width)
        assert torch.equal(kept.positions[:, :first], tokens.positions[:, :first])
        tokens = kept
    assert [left.positions.shape[1] for left in store] == [leaving for leaving in counts if leaving]
    places = torch.cat([tokens.positions, *(left.positions for left in store)], dim=1)
    assert torch.equal(places.sort(1).values, whole.positions)
    assert torch.equal(replenish(tokens, store), whole.values)


@pytest.mark.rounding
@settings(deadline=None, max_examples=60)
@given(sizes, st.data())
def test_those_leave_that_resemble_most(
    size: tuple[int, int, int, int], data: st.DataObject
) -> None:
    """Against loops over single tokens; of two that are alike to the last digits either may go."""
    batch, count, width, seed = size
    leaving = data.draw(st.integers(1, count // 2))
    tokens, generator = new_tokens(batch, count, width, seed)
    keys = new_keys(tokens, generator)
    kept, (left,) = migrate(tokens, keys, leaving)
    for row in range(batch):
        mean = keys[row].double().mean(0)  # (n, C / h): heads averaged
        likeness = {
            a: max(float(F.cosine_similarity(mean[a], mean[b], dim=0)) for b in range(1, count, 2))
            for a in range(0, count, 2)
        }
        gone = left.positions[row].tolist()
        assert gone == sorted(set(gone) & likeness.keys())
        assert len(gone) == leaving
        stayed = [likeness[a] for a in likeness if a not in gone]
        assert min(likeness[a] for a in gone) > max(stayed, default=-1.0) - 1e-5
        assert kept.positions[row].tolist() == [i for i in range(count) if i not in gone]


def test_nothing_is_touched_where_nobody_leaves() -> None:
    tokens, generator = new_tokens(2, 9, 3, 0)
    kept, store = migrate(tokens, new_keys(tokens, generator), 0)
    assert kept is tokens
    assert store == ()
    assert replenish(kept, store) is tokens.values


def test_a_row_does_not_depend_on_the_others() -> None:
    tokens, generator = new_tokens(3, 40, 5, 1)
    keys = new_keys(tokens, generator)
    others = keys.clone()
    others[0] = 7 * others[2] - 1
    others[2] = 0.0
    one, (left_one,) = migrate(tokens, keys, 11)
    two, (left_two,) = migrate(tokens, others, 11)
    assert torch.equal(one.positions[1], two.positions[1])
    assert torch.equal(left_one.values[1], left_two.values[1])
    assert not torch.equal(one.positions[0], two.positions[0])


def test_gradients_reach_all_tokens_and_no_key() -> None:
    tokens, generator = new_tokens(2, 12, 3, 2)
    values = tokens.values.clone().requires_grad_()
    keys = new_keys(tokens, generator).requires_grad_()
    weights = torch.randn(values.shape, generator=generator)
    kept, store = migrate(tokens._replace(values=values), keys, 4)
    (replenish(kept, store) * weights).sum().backward()
    assert torch.equal(values.grad, weights)
    assert keys.grad is None


def test_places_outside_the_image_leave_first_and_attract_nobody() -> None:
    tokens, generator = new_tokens(1, 12, 3, 3)
    keys = new_keys(tokens, generator)
    keys[:, :, 4] = keys[:, :, 7]  # token 4 resembles place 7 perfectly, and 7 is outside
    outside = torch.zeros(1, 12, dtype=torch.bool)
    outside[0, [6, 7, 10]] = True
    _, (left,) = migrate(tokens, keys, 2, outside=outside)
    assert left.positions.tolist() == [[6, 10]]
    best = similarity(keys, outside).amax(-1)[0]
    plain = similarity(keys).amax(-1)[0]
    assert best[3] == best[5] == SURE
    assert best[2] < plain[2]
    assert plain[2] == pytest.approx(1.0, abs=1e-5)


def test_similarity_ignores_autocast_to_bfloat16() -> None:
    tokens, generator = new_tokens(2, 32, 3, 4)
    keys = new_keys(tokens, generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = similarity(keys)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, similarity(keys))


@given(st.integers(2, 60), st.data())
def test_survivors_are_the_complement(count: int, data: st.DataObject) -> None:
    leaving = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1)))
    staying = survivors(torch.tensor([leaving]), count)
    assert staying.tolist() == [[i for i in range(count) if i not in leaving]]
