"""The few pieces of HTML that the report is made of. All text is escaped and rid of secrets."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from itpn_ray.formatting import is_fraction, label, show_value
from itpn_ray.tracking.redact import redact

Row = Mapping[str, object]


def esc(value: object) -> str:
    """Text as HTML."""
    # All text of a page passes here, so that no secret gets onto one.
    return html.escape(redact(str(value)))


def image(path: Path, caption: str, *, plot: bool) -> str:
    """A PNG as part of the page; a plot, unlike a photograph, is darkened on a dark page."""
    data = base64.b64encode(path.read_bytes()).decode()
    kind = "image plot" if plot else "image"
    return (
        f'<figure class="{kind}"><img alt="{esc(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{esc(caption)}</figcaption></figure>"
    )


def tiles(metrics: Mapping[str, str]) -> str:
    """A row of large metrics with their names."""
    cells = (
        f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in metrics.items()
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>' if metrics else ""


def pairs(values: Mapping[str, object]) -> str:
    """Names and values, one a line."""
    rows = (
        f"<tr><th>{esc(name)}</th><td>{esc(show_value(name, value))}</td></tr>"
        for name, value in values.items()
    )
    return f'<table class="pairs">{"".join(rows)}</table>'


def table(
    rows: Sequence[Row],
    *,
    headings: Mapping[str, str] | None = None,
    bars: Sequence[str] = (),
    marked: str = "",
) -> str:
    """A table with a column for each name that turns up.

    Args:
        rows: one dict a row.
        headings: columns to show, as name -> heading; None shows all under their names.
        bars: fractions that get a bar behind the value.
        marked: rows where this is true stand out.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    # A column that marks rows is shown by their colour, not as a column.
    columns = headings or {name: label(name) for name in names if name != marked}
    numeric = {
        # Numbers are set to the right, where their digits line up.
        name: all(isinstance(row[name], int | float) for row in rows if row.get(name) is not None)
        for name in columns
    }
    head = "".join(
        f"<th{_class('n' if numeric[name] else '')}>{esc(heading)}</th>"
        for name, heading in columns.items()
    )
    body = []
    for row in rows:
        cells = "".join(_cell(name, row.get(name), numeric[name], name in bars) for name in columns)
        body.append(f"<tr{_class('marked' if row.get(marked) else '')}>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="grid"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def details(summary: str, content: str) -> str:
    """Something that is folded away until it is asked for."""
    return f"<details><summary>{esc(summary)}</summary>{content}</details>"


def section(title: str, *content: str) -> str:
    """A titled part of the page; nothing where there is no content."""
    inside = "".join(content)
    return f"<section><h2>{esc(title)}</h2>{inside}</section>" if inside else ""


def width(share: float) -> str:
    """A share as CSS writes a width, from 0 to 100 %; none for what is not a number."""
    return f"{100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0:.1f}%"


def _cell(name: str, value: object, numeric: bool, bar: bool) -> str:
    text = esc(show_value(name, value))
    if bar and isinstance(value, int | float) and is_fraction(name):
        return f'<td class="n bar" style="--share:{width(value)}"><span>{text}</span></td>'
    return f"<td{_class('n' if numeric else '')}>{text}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
