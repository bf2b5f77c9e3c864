import math
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itpn_ray.report.chart import (
    BOTTOM,
    HEIGHT,
    TOP,
    Axis,
    Mark,
    Series,
    bar_chart,
    line_chart,
    scatter_chart,
)


def path_points(chart: str, kind: str) -> list[tuple[float, float]]:
    (drawn,) = re.findall(rf'class="{kind}" d="M([^"]*)"', chart)
    return [(float(x), float(y)) for x, y in (place.split() for place in drawn.split("L"))]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_ticks_are_round_few_and_inside(values: list[float]) -> None:
    axis = Axis(values, 0.0, 100.0, pad=0.05)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    room = (axis.high - axis.low) * 1e-6 + 1e-9
    assert all(axis.low - room <= tick <= axis.high + room for tick in ticks)


SIZES = st.floats(-12, 12).map(lambda power: 10.0**power)
DEGENERATE = st.one_of(
    st.sampled_from([0.0, -0.0, 5e-324, 1e308, -1e308, math.nan, math.inf, -math.inf]),
    st.builds(lambda size, sign: sign * size, SIZES, st.sampled_from([1.0, -1.0])),
)
CLOSE = st.builds(
    lambda value, steps: [value * (1 + step * sys.float_info.epsilon) for step in steps],
    SIZES,
    st.lists(st.integers(0, 3), min_size=1, max_size=50),
)
FIGURES = st.sampled_from(["top1", "loss", "lr", "images_per_s", "mfu", "box_AP"])


@given(st.lists(DEGENERATE, min_size=1, max_size=50) | CLOSE, FIGURES, st.booleans())
def test_any_values_can_be_drawn(values: list[float], figure: str, noisy: bool) -> None:
    points = [(step, value) for step, value in enumerate(values)]
    line = line_chart("title", [Series(name="a", points=points, noisy=noisy)], metric=figure)
    marks = [Mark(x=x, y=y, name="m", front=True, named=True) for y, x in points]
    dots = [scatter_chart("title", marks, x="images_per_s", y=figure, steps=s) for s in (0, 1)]
    bars = bar_chart("title", [("a", value) for value in values], metric=figure)
    for chart in (line, *dots):
        drawn = re.findall(r' (?:d|x|y|cx|cy)="([^"]*)"', chart)
        assert not re.search("nan|inf", " ".join(drawn))
    assert all(0 <= float(width) <= 100 for width in re.findall(r"width:([^%]*)%", bars))


@given(st.lists(DEGENERATE, min_size=1, max_size=20) | CLOSE, FIGURES)
def test_ticks_are_told_apart(values: list[float], figure: str) -> None:
    chart = line_chart("t", [Series(name="", points=[(1, v) for v in values])], metric=figure)
    labels = re.findall(r'class="y" [^>]*>([^<]*)</text>', chart)
    assert len(labels) == len(set(labels))
    assert len(labels) != 1


def test_values_that_differ_in_the_last_bit_are_one_value() -> None:
    lines = [
        Series(name="top-1", points=[(1, 0.4166666666666667)]),
        Series(name="recall", points=[(1, 0.41666666666666663)]),
    ]
    chart = line_chart("accuracy", lines, metric="top1")
    assert re.findall(r'class="y" [^>]*>([\d.]+ %)<', chart) == ["38 %", "40 %", "42 %", "44 %"]
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', chart)]
    assert max(heights) - min(heights) < 0.2


def test_ticks_of_a_usual_span() -> None:
    assert Axis([0.0, 1.0], 0, 1, pad=0.0).ticks() == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert Axis([0.0, 600.0], 0, 1, pad=0.0).ticks(4) == [0, 200, 400, 600]


def test_steps_are_counted_from_nought() -> None:
    chart = line_chart("loss", [Series(name="a", points=[(500, 1.0), (600, 2.0)])])
    assert [x for x, _ in path_points(chart, "line c0")] == pytest.approx([315.3, 368], abs=0.1)
    assert re.findall(r'class="x"[^>]*>([\d,]+)<', chart) == ["0", "200", "400", "600"]


def test_a_line_is_drawn_in_its_place() -> None:
    chart = line_chart("loss", [Series(name="train", points=[(0, 2.0), (10, 1.0), (20, 0.0)])])
    points = path_points(chart, "line c0")
    assert [x for x, _ in points] == pytest.approx([52, 210, 368], abs=0.1)
    ys = [y for _, y in points]
    assert ys[0] < ys[1] < ys[2]
    assert ys[1] == pytest.approx((ys[0] + ys[2]) / 2, abs=0.1)
    assert "loss" in chart
    assert "<title>step 10\ntrain: 1</title>" in chart


def test_values_that_are_not_finite_are_left_out() -> None:
    points = [(0, 2.0), (1, math.nan), (2, math.inf), (3, 1.0)]
    chart = line_chart("loss", [Series(name="train", points=points)])
    assert len(path_points(chart, "line c0")) == 2
    assert "nan" not in chart
    assert line_chart("loss", [Series(name="train", points=[(0, math.nan)])]) == ""
    assert line_chart("loss", []) == ""


def test_a_noisy_line_is_smoothed_and_shown_as_it_was_too() -> None:
    noisy = [(i, 1.0 + (0.5 if i % 2 else -0.5)) for i in range(200)]
    chart = line_chart("loss", [Series(name="train", points=noisy, noisy=True)])
    assert len(path_points(chart, "line raw c0")) == 200
    inner = [y for _, y in path_points(chart, "line c0")[20:-20]]
    raw = [y for _, y in path_points(chart, "line raw c0")[20:-20]]
    assert max(inner) - min(inner) < 0.3 * (max(raw) - min(raw))


def test_long_runs_make_no_long_reports() -> None:
    points = [(i, math.sin(i / 1000)) for i in range(100_000)]
    chart = line_chart("loss", [Series(name="train", points=points, noisy=True)])
    assert len(chart) < 60_000
    assert path_points(chart, "line c0")[-1][0] == pytest.approx(368, abs=0.1)


def test_shares_are_written_as_per_cent() -> None:
    chart = line_chart(
        "accuracy", [Series(name="top-1", points=[(0, 0.2), (9, 0.8)])], metric="top1"
    )
    assert ">60 %<" in chart
    assert "<b>80.0 %</b>" in chart


def test_small_values_keep_their_digits() -> None:
    chart = line_chart("lr", [Series(name="", points=[(0, 0.0), (9, 0.0015)])], metric="lr")
    assert ">0.00050<" in chart
    assert ">0.00125<" in chart


def test_one_constant_value_can_be_drawn() -> None:
    assert "line c0" in line_chart("loss", [Series(name="a", points=[(5, 3.0)])])
    assert "line c0" in line_chart("loss", [Series(name="a", points=[(5, 0.0), (6, 0.0)])])


def test_an_interval_is_drawn_and_has_room() -> None:
    marks = [
        Mark(x=100, y=0.5, name="a", front=True, named=True, half=0.4),
        Mark(x=200, y=0.5, name="b", front=True, named=True),
    ]
    chart = scatter_chart("AP", marks, x="images_per_s", y="box_AP", joined=False)
    ((x, low), (same, high)) = path_points(chart, "line raw c0")
    assert x == same
    assert TOP < high < low < HEIGHT - BOTTOM
    assert chart.count("line") == 1


def test_the_front_is_joined_by_steps() -> None:
    marks = [
        Mark(x=100, y=0.8, name="slow", front=True, named=True),
        Mark(x=200, y=0.6, name="fast", front=True, named=True),
        Mark(x=90, y=0.5, name="beaten", front=False, named=False),
    ]
    chart = scatter_chart("trials", marks, x="images_per_s", y="top1", steps=True)
    (x0, y0), (x1, y1), (x2, y2) = path_points(chart, "line c0")
    assert (x0, y1, x1) == (x1, y2, x0)
    assert x2 > x0
    assert y2 > y0
    assert chart.count('class="dot other"') == 1
    assert ">beaten<" not in chart
    assert "<title>beaten: 50.0 %, 90 images/s</title>" in chart


def test_ratios_are_joined_in_their_order() -> None:
    marks = [
        Mark(x=x, y=y, name="", front=True, named=False)
        for x, y in [(100, 0.8), (90, 0.7), (120, 0.75)]
    ]
    chart = scatter_chart("ratios", marks, x="images_per_s", y="top1", steps=False)
    first, second, third = (x for x, _ in path_points(chart, "line c0"))
    assert second < first < third


def test_bars_are_as_long_as_their_shares() -> None:
    chart = bar_chart("top-1", [("probe", 0.19), ("ours", 0.83)], metric="top1")
    assert re.findall(r"width:([\d.]+)%", chart) == ["19.0", "83.0"]
