"""Block-wise masks: exact counts, blocks, and draws by sample alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itpn_ray.errors import ConfigError
from itpn_ray.tasks.clip_pretraining.block_mask import block_mask, masked_count
from itpn_ray.tasks.pixel_pretraining.masking import random_mask

IDS = torch.arange(200)


def draw(ids: Tensor = IDS, **changes: object) -> Tensor:
    settings = {"seed": 3, "epoch": 7, "grid": (14, 14), "masked": 75, "smallest": 16, **changes}
    return block_mask(ids, **settings)  # type: ignore[arg-type]


@given(
    rows=st.integers(1, 16), columns=st.integers(1, 16), data=st.data(), epoch=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_each_image_hides_the_same_number(
    rows: int, columns: int, data: st.DataObject, epoch: int
) -> None:
    masked = data.draw(st.integers(1, rows * columns))
    mask = draw(IDS[:9], grid=(rows, columns), masked=masked, epoch=epoch)
    assert mask.shape == (9, rows * columns)
    assert mask.sum(1).tolist() == [masked] * 9


def test_a_mask_depends_on_its_sample_alone() -> None:
    whole = draw()
    assert torch.equal(draw(IDS[50:60]), whole[50:60])
    assert torch.equal(draw(IDS.flip(0)), whole.flip(0))
    assert len({tuple(row) for row in whole.int().tolist()}) == len(IDS)


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 8}])
def test_seed_and_epoch_change_it(change: dict[str, int]) -> None:
    assert (draw(**change) != draw()).any(1).all()


def test_hidden_patches_lie_in_blocks() -> None:
    """A hidden patch has more hidden neighbours than where patches are hidden one by one."""

    def neighbours(mask: Tensor) -> float:
        plane = mask.view(-1, 14, 14)
        right = (plane[:, :, 1:] & plane[:, :, :-1]).sum()
        below = (plane[:, 1:] & plane[:, :-1]).sum()
        return float(right + below) / float(mask.sum())

    _, scattered = random_mask(IDS, seed=3, epoch=7, tokens=196, ratio=75 / 196)
    assert neighbours(draw()) > 1.5
    assert neighbours(scattered) < 0.85


def one_by_one(random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """The published procedure, patch by patch; stops where ten attempts bring nothing new."""
    mask = np.zeros((14, 14), bool)
    while mask.sum() < 75:
        before, missing = mask.sum(), 75 - mask.sum()
        for _ in range(10):
            area = 16 + random.random() * (missing - 16)
            aspect = np.exp(random.uniform(np.log(0.3), np.log(1 / 0.3)))
            height, width = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if height < 14 and width < 14:
                top, left = random.integers(0, 15 - height), random.integers(0, 15 - width)
                tried = mask.copy()
                tried[top : top + height, left : left + width] = True
                if 0 < tried.sum() - before <= missing:
                    mask = tried
                    break
        if mask.sum() == before:
            break
    return mask


def test_patches_are_hidden_where_the_published_procedure_hides_them() -> None:
    random = np.random.default_rng(0)
    published = np.mean([one_by_one(random) for _ in range(1500)], axis=0)
    ours = draw(torch.arange(4000)).view(-1, 14, 14).float().mean(0).numpy()
    assert np.abs(ours - published).max() < 0.09
    assert np.abs(ours - published).mean() < 0.03
    assert np.corrcoef(ours.ravel(), published.ravel())[0, 1] > 0.97


def test_one_block_is_a_rectangle_until_the_count_is_reached() -> None:
    mask = draw(IDS, masked=16, smallest=16).view(-1, 14, 14)
    rows, columns = mask.any(2).sum(1), mask.any(1).sum(1)
    # Sides are rounded, so a block of 16 patches covers from 12 to 21 and is then cut or completed.
    assert ((rows * columns).float().median()) <= 21


def test_count_of_the_paper_and_refusals() -> None:
    assert masked_count(196, 0.383) == 75
    for ratio in (0.01, 0.99):
        with pytest.raises(ConfigError, match=r"task\.mask_ratio"):
            masked_count(16, ratio)
