"""Random masks: exact counts, functions of the sample alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itpn_ray.errors import ConfigError
from itpn_ray.tasks.pixel_pretraining.masking import random_mask, visible_count


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(9, 196),  # fewer may leave nothing visible, which is refused
    ratio=st.floats(0.3, 0.8),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 2000),
)
def test_counts_and_complement(tokens: int, ratio: float, seed: int, epoch: int) -> None:
    ids = torch.arange(5)
    keep = visible_count(tokens, ratio)
    visible, mask = random_mask(ids, seed=seed, epoch=epoch, tokens=tokens, ratio=ratio)
    assert visible.shape == (5, keep)
    assert (mask.sum(1) == tokens - keep).all()
    assert not mask.gather(1, visible).any()
    assert (visible.diff(dim=1) > 0).all()


def test_a_mask_does_not_depend_on_its_batch_mates() -> None:
    draw = {"seed": 1, "epoch": 2, "tokens": 36, "ratio": 0.75}
    together = random_mask(torch.tensor([7, 8, 9]), **draw)[1]
    alone = random_mask(torch.tensor([8]), **draw)[1]
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_masks_are_uniform() -> None:
    mask = random_mask(torch.arange(4000), seed=0, epoch=0, tokens=16, ratio=0.75)[1]
    assert (mask.float().mean(0) - 0.75).abs().max() < 0.03


@pytest.mark.parametrize(("tokens", "ratio", "word"), [(4, 0.9, "visible"), (4, 0.0, "hidden")])
def test_nothing_to_hide_or_see_is_an_error(tokens: int, ratio: float, word: str) -> None:
    with pytest.raises(ConfigError, match=f"leaves none of the {tokens} patches {word}"):
        visible_count(tokens, ratio)
