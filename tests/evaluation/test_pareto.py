import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.cbook import STEP_LOOKUP_MAP
from PIL import Image

from itpn_ray.evaluation.pareto import pareto_front, plot_front


def test_the_front_is_what_nothing_beats() -> None:
    points = [(100, 0.8), (120, 0.7), (90, 0.75), (120, 0.6), (80, 0.9), (80, 0.9), (100, 0.7)]
    assert pareto_front(points) == [1, 0, 4, 5]
    assert pareto_front([]) == []


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=12))
def test_the_front_agrees_with_its_definition(points: list[tuple[int, int]]) -> None:
    def beaten(point: tuple[int, int]) -> bool:
        return any(
            other[0] >= point[0] and other[1] >= point[1] and other != point for other in points
        )

    expected = {i for i, point in enumerate(points) if not beaten(point)}
    assert set(pareto_front(points)) == expected


def test_the_plot_shows_the_front_in_its_colour(tmp_path) -> None:
    points = [(100.0, 0.8), (120.0, 0.7), (90.0, 0.6)]
    path = plot_front(points, ["a", "b", "c"], tmp_path / "new" / "front.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    blue = (abs(pixels - [0x2F, 0x6F, 0x9F]) <= 8).all(-1)
    assert blue.sum() > 50
    assert plot_front([], [], tmp_path / "empty.png").exists()


def test_between_two_points_the_front_is_the_faster_ones(tmp_path, monkeypatch) -> None:
    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: drawn.append((a[1:], k)) or plot(*a, **k))
    plot_front([(100.0, 0.8), (120.0, 0.7)], ["slow", "fast"], tmp_path / "front.png")
    (((speeds, values), options),) = drawn
    corners = STEP_LOOKUP_MAP[options["drawstyle"]](speeds, values)
    assert [tuple(corner) for corner in zip(*corners, strict=True)] == [
        (120.0, 70.0),
        (100.0, 70.0),
        (100.0, 80.0),
    ]


def test_equal_points_share_a_label_and_intervals_are_of_the_front(tmp_path, monkeypatch) -> None:
    told, bars = [], []
    label, errorbar = Axes.annotate, Axes.errorbar
    monkeypatch.setattr(Axes, "annotate", lambda *a, **k: told.append(a[1]) or label(*a, **k))
    monkeypatch.setattr(
        Axes, "errorbar", lambda *a, **k: bars.append(k["yerr"]) or errorbar(*a, **k)
    )
    points = [(100.0, 0.8), (120.0, 0.7), (120.0, 0.7), (90.0, 0.6)]
    halves = [0.02, 0.03, 0.03, float("nan")]
    plot_front(points, list("abcd"), tmp_path / "front.png", halves=halves)
    assert told == ["b, c", "a"]
    assert bars == [pytest.approx([3.0, 3.0, 2.0])]
    plot_front(points[:1], ["a"], tmp_path / "one.png", halves=[float("nan")])
