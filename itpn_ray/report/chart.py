"""Line and scatter charts as SVG that takes the page's colours, light or dark."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

from itpn_ray.formatting import is_fraction, show_metric
from itpn_ray.report.html import esc, width

WIDTH, HEIGHT = 380, 214
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 22
_MOST_POINTS = 240
_MOST_HOVERS = 60
_SMOOTH_FROM = 40
_SAME = 1e-5
# Beyond these, differences or sums of two floats would be 0 or infinite.
_TINIEST, _LARGEST = 1e-100, 1e100

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: its name, (x, y) points by x, and whether it is a noisy one to be smoothed."""

    name: str
    points: Points
    noisy: bool = False


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One dot of a scatter chart; those on the front are joined, the ``named`` written beside."""

    x: float
    y: float
    name: str
    front: bool
    named: bool
    half: float = 0.0
    """Half of the interval of y; 0: none is drawn."""


class Axis:
    """A span of values laid on a span of the drawing, with round ticks.

    Values that differ by less than a hundred-thousandth of themselves are one value to the eye:
    their span is a fifth of it, so that ticks keep apart and rounding is not drawn as a slope.
    """

    def __init__(self, values: Sequence[float], begin: float, end: float, *, pad: float) -> None:
        # Of nothing that can be drawn the axis goes from 0 to 1.
        drawn = [value for value in values if _is_drawable(value)] or [0.0, 1.0]
        low, high = min(drawn), max(drawn)
        size = max(abs(low), abs(high))
        if high - low > max(_SAME * size, _TINIEST):
            room = (high - low) * pad
        else:
            room = 0.1 * size if size > _TINIEST else 0.5
        self.low, self.high = low - room, high + room
        self._begin, self._end = begin, end

    def place(self, value: float) -> float:
        """Where a value lies on the drawing."""
        # SVG counts downwards: `begin` and `end` say where low and high lie.
        fraction = (value - self.low) / (self.high - self.low)
        return self._begin + fraction * (self._end - self._begin)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the span, at most a few more than ``count`` of them."""
        rough = (self.high - self.low) / count
        # The power of ten at or below the step.
        unit = 10 ** math.floor(math.log10(rough))
        # Nearest in ratio, not in difference: 1 and 2 are as far apart as 5 and 10.
        step = unit * min((1, 2, 2.5, 5, 10), key=lambda k: abs(math.log(unit * k / rough)))
        # A tick that rounding puts just outside of the span belongs to it.
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def line_chart(title: str, series: Sequence[Series], *, metric: str = "", x: str = "step") -> str:
    """A chart of lines over a common x, with a legend of their last values.

    Args:
        title: heading.
        series: the lines; those without a finite point are left out.
        metric: the metric's name, which says how values are written; the title by default.
        x: what x counts.
    """
    name = metric or title
    drawn = [(i, s, _finite(s.points)) for i, s in enumerate(series)]
    drawn = [(i, s, points) for i, s, points in drawn if points]
    if not drawn:
        return ""
    xs = [at for _, _, points in drawn for at, _ in points]
    # Few points are all shown: smoothing would hide them.
    shown = [_smooth(p) if s.noisy and len(p) >= _SMOOTH_FROM else p for _, s, p in drawn]
    # The noise around a smoothed line may leave the image, so that one spike does not rule it.
    ys = [y for points in shown for _, y in points]
    # From nought on: the first record is not where the run began.
    across = Axis([0.0, *xs], LEFT, WIDTH - RIGHT, pad=0.0)
    up = Axis(ys, HEIGHT - BOTTOM, TOP, pad=0.06)
    parts = [_frame(across, up, name, x)]
    for (i, _, points), line in zip(drawn, shown, strict=True):
        if line is not points:
            parts.append(f'<path class="line raw c{i}" d="{_path(_thin(points), across, up)}"/>')
        parts.append(f'<path class="line c{i}" d="{_path(_thin(line), across, up)}"/>')
        # Dots where a line has few points, so that single ones are seen.
        if len(line) <= 30:
            parts += [_dot(across.place(a), up.place(b), f"dot c{i}", 2.4) for a, b in line]
    parts += _hovers([(i, s.name, p) for i, s, p in drawn], across, up, name, x)
    legend = "".join(
        f'<span class="key c{i}{"" if s.name else " bare"}">{esc(s.name)} '
        f"<b>{esc(show_metric(name, points[-1][1]))}</b></span>"
        for i, s, points in drawn
    )
    return _card(title, legend, "".join(parts))


def scatter_chart(
    title: str, marks: Sequence[Mark], *, x: str, y: str, steps: bool = False, joined: bool = True
) -> str:
    """A chart of dots, some of them joined.

    Args:
        title: heading.
        marks: the dots; those without a finite place are left out.
        x: the metric across, e.g. ``images_per_s``.
        y: the metric upwards.
        steps: join the front as steps, fastest last; otherwise straight, in the order given.
        joined: whether the front is joined at all.
    """
    marks = [mark for mark in marks if _is_drawable(mark.x) and _is_drawable(mark.y)]
    if not marks:
        return ""
    across = Axis([mark.x for mark in marks], LEFT, WIDTH - RIGHT, pad=0.12)
    ends = [(mark.y - mark.half, mark.y + mark.half) for mark in marks]
    up = Axis(list(chain.from_iterable(ends)), HEIGHT - BOTTOM, TOP, pad=0.15)
    parts = [_frame(across, up, y, x)]
    parts += [
        f'<path class="line raw c0" d="{_path([(mark.x, low), (mark.x, high)], across, up)}"/>'
        for mark, (low, high) in zip(marks, ends, strict=True)
        if mark.half
    ]
    corners = [(mark.x, mark.y) for mark in marks if mark.front and joined]
    if steps:
        corners.sort()
        # Out to the next speed only at its accuracy: between two trials nothing was measured.
        turns = [[(x0, y1), (x1, y1)] for (x0, _), (x1, y1) in pairwise(corners)]
        corners = [*corners[:1], *chain.from_iterable(turns)]
    if corners:
        parts.append(f'<path class="line c0" d="{_path(corners, across, up)}"/>')
    for mark in marks:
        kind = "dot c0" if mark.front else "dot other"
        label = f"{mark.name}: {show_metric(y, mark.y)}, {show_metric(x, mark.x)} {_axis_name(x)}"
        parts.append(_dot(across.place(mark.x), up.place(mark.y), kind, 4.2, label))
        if mark.named:
            # Near the right edge the name has no room on that side.
            left = across.place(mark.x) > WIDTH * 0.72
            parts.append(
                f'<text class="name{" left" if left else ""}" '
                f'x="{across.place(mark.x) + (-7 if left else 7):.1f}" '
                f'y="{up.place(mark.y) - 6:.1f}">{esc(mark.name)}</text>'
            )
    return _card(title, "", "".join(parts))


def bar_chart(title: str, rows: Sequence[tuple[str, float]], *, metric: str) -> str:
    """Named fractions in [0, 1] as bars, written with their values."""
    cells = "".join(
        f'<div class="row"><span>{esc(name)}</span><i><b style="width:{width(value)}"></b></i>'
        f"<span>{esc(show_metric(metric, value))}</span></div>"
        for name, value in rows
    )
    return f'<figure class="bars"><figcaption>{esc(title)}</figcaption>{cells}</figure>'


def _card(title: str, legend: str, drawing: str) -> str:
    return (
        f'<figure class="chart"><figcaption>{esc(title)}<span class="legend">{legend}</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{esc(title)}">'
        f"{drawing}</svg></figure>"
    )


def _frame(across: Axis, up: Axis, metric: str, x: str) -> str:
    parts = []
    ticks = up.ticks()
    for value in ticks:
        y = up.place(value)
        parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        text = _tick(value, ticks, fraction=is_fraction(metric))
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 3.5:.1f}">{text}</text>')
    parts.append(f'<path class="rule base" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    ticks = across.ticks(4)
    for value in ticks:
        at = f'x="{across.place(value):.1f}" y="{HEIGHT - 7}"'
        parts.append(f'<text class="x" {at}>{_tick(value, ticks, fraction=False)}</text>')
    parts.append(f'<text class="y" x="{LEFT - 6}" y="{HEIGHT - 7}">{_axis_name(x)}</text>')
    return "".join(parts)


def _tick(value: float, ticks: Sequence[float], *, fraction: bool) -> str:
    """A tick's label, with as many digits as tell it from its neighbours."""
    scale = 100 if fraction else 1
    step = scale * (ticks[1] - ticks[0] if len(ticks) > 1 else abs(value) or 1)
    # 1e-9, for the logarithm of a power of ten may come out just below a whole number.
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    # A step such as 2.5 needs one digit more.
    if abs(round(step, digits) - step) > step * 1e-6:
        digits += 1
    value, largest = scale * value, scale * max(map(abs, ticks))
    if digits > 5 or largest >= 1e6:
        digits = math.floor(math.log10(largest / step)) + 2 if largest else 1
        text = f"{value:.{digits}g}"
    else:
        text = f"{value:,.{digits}f}"
    return f"{text}{' %' if fraction else ''}"


def _axis_name(metric: str) -> str:
    return esc(metric.replace("_per_s", "/s").replace("_", " "))


def _is_drawable(value: float) -> bool:
    """Whether a value is a number whose differences and sums are numbers too."""
    # False of NaN too, which no comparison holds for.
    return abs(value) < _LARGEST


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if _is_drawable(x) and _is_drawable(y)]


def _smooth(points: Points) -> list[tuple[float, float]]:
    """A running mean over a twentieth of the points, centred."""
    half = max(1, len(points) // 40)
    # Running sums: a mean of any window is one difference.
    sums = [0.0, *accumulate(y for _, y in points)]
    smooth = []
    for i, (x, _) in enumerate(points):
        # Shorter at both ends, so that it stays centred and a slope stays one.
        reach = min(half, i, len(points) - 1 - i)
        smooth.append((x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return smooth


def _thin(points: Points, most: int = _MOST_POINTS) -> Points:
    """At most ``most`` of the points, the last among them."""
    stride = -(-len(points) // most)
    # The last point always, for the newest value is the one looked for.
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def _path(points: Points, across: Axis, up: Axis) -> str:
    places = (f"{across.place(x):.1f} {up.place(y):.1f}" for x, y in points)
    return "M" + "L".join(places)


def _dot(x: float, y: float, kind: str, radius: float, label: str = "") -> str:
    title = f"<title>{esc(label)}</title>" if label else ""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{title}</circle>'


def _hovers(
    lines: Sequence[tuple[int, str, Points]], across: Axis, up: Axis, metric: str, x: str
) -> list[str]:
    """Invisible columns that tell their values and show a dot when the pointer is over them."""
    longest = max((points for _, _, points in lines), key=len)
    stops = _thin(longest, _MOST_HOVERS)
    # Stops share the width between them.
    half = (WIDTH - LEFT - RIGHT) / max(len(stops), 2) / 2
    parts = []
    for at, _ in stops:
        lines_of_text, dots = [f"{x} {at:,.0f}"], []
        for i, name, points in lines:
            px, py = _nearest(points, at)
            # This line has no value near this place.
            if len(lines) > 1 and abs(across.place(px) - across.place(at)) > 2 * half:
                continue
            lines_of_text.append(f"{name}: {show_metric(metric, py)}")
            dots.append(_dot(across.place(px), up.place(py), f"dot c{i}", 3.2))
        left = across.place(at) - half
        parts.append(
            f'<g class="hover"><rect x="{left:.1f}" y="{TOP}" width="{2 * half:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>{"".join(dots)}'
            f"<title>{esc(chr(10).join(lines_of_text))}</title></g>"
        )
    return parts


def _nearest(points: Points, x: float) -> tuple[float, float]:
    """The point whose x is nearest; points are by x."""
    after = bisect_left(points, x, key=lambda point: point[0])
    return min(points[max(after - 1, 0) : after + 1], key=lambda point: abs(point[0] - x))
