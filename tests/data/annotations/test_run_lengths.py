from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from itpn_ray.data.annotations import run_lengths

Mask = NDArray[np.bool_]


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_run_lengths_agree_with_coco(mask: Mask) -> None:
    runs = run_lengths.encode(mask)
    np.testing.assert_array_equal(run_lengths.decode(runs, *mask.shape), mask)
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = theirs["counts"].decode()
    assert run_lengths.to_text(runs) == text
    assert run_lengths.from_text(text) == runs


def test_large_runs_have_a_text_form() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[1000:2900, 1500:1600] = True
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert run_lengths.to_text(run_lengths.encode(mask)) == theirs
    np.testing.assert_array_equal(
        run_lengths.decode(run_lengths.from_text(theirs), 3000, 2000), mask
    )


def test_wrong_runs_raise() -> None:
    with pytest.raises(ValueError, match="run lengths of 5 pixels for 2 x 3"):
        run_lengths.decode([2, 3], 3, 2)
    with pytest.raises(ValueError, match="end in the middle"):
        run_lengths.from_text("P")
