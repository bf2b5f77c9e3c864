"""Masks of drawn scenes say what can be seen."""

from __future__ import annotations

import numpy as np

from itpn_ray.data.synthetic.masks import draw_mask
from itpn_ray.data.synthetic.scenes import SceneObject


def box(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64)


def test_a_bar_hides_what_was_drawn_before_and_its_own_thing_alone() -> None:
    """Bars reach beyond their things: over neighbours, and over crowds."""
    crowd = np.zeros((20, 30), dtype=np.bool_)
    crowd[2:6, 2:6] = crowd[2:6, 10:14] = True
    before = SceneObject(label=0, parts=(box(2, 10, 8, 18),))
    after = SceneObject(label=4, parts=(box(20, 0, 28, 4), box(20, 8, 28, 18)))
    hiding = SceneObject(label=2, parts=(box(12, 8, 18, 18),), bars=(box(0, 4, 30, 12),))
    mask = draw_mask([SceneObject(label=1, parts=(), crowd=crowd), before, hiding, after], 20, 30)
    assert mask[2, 3] == mask[2, 11] == 3
    assert mask[2, 8] == 0  # within a crowd, of no class
    assert mask[5, 3] == 1  # the crowd below the bar
    assert mask[11, 4] == 1  # the thing before
    assert mask[15, 4] == 2
    assert mask[9, 14] == 4  # its own thing, whose parts are what is left of it
    assert mask[9, 24] == 6  # drawn after it
