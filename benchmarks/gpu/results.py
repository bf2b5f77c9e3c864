"""A part's results as a file, written anew after every line, so that nothing measured is lost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TROUBLE = ("failed", "skipped")


@dataclass(kw_only=True)
class PartResult:
    """The lines of one part.

    Attributes:
        path: its file.
        scale: name of the sizes that it was run at.
        title: what it measures, for readers.
        columns: key of a line -> heading.
        lines: what came out.
        machine: where.
        seconds: that it took; None until it has come to its end.
    """

    path: Path
    scale: str = ""
    title: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    @staticmethod
    def read(path: Path) -> PartResult:
        """What a file says; nothing where there is none."""
        found = json.loads(path.read_text()) if path.exists() else {}
        return PartResult(path=path, **found)

    @property
    def failed(self) -> bool:
        """Whether a case failed."""
        return any("failed" in line for line in self.lines)

    def done(self, scale: str) -> bool:
        """Whether it needs no other run at these sizes: it ended, and no case failed or is left."""
        whole = not any(key in line for line in self.lines for key in TROUBLE)
        return self.seconds is not None and self.scale == scale and whole

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line, and show it."""
        self.lines.append(line)
        print("  ".join(shown(line.get(key)) for key in self.columns) + note(line), flush=True)
        self.write()

    def write(self) -> None:
        """Write the file whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        plain = {name: value for name, value in vars(self).items() if name != "path"}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(plain, indent=1) + "\n")
        partial.replace(self.path)

    def table(self) -> str:
        """The lines as a Markdown table; what failed or was left out stands in the last column."""
        columns = dict(self.columns)
        if any(note(line) for line in self.lines):
            columns["note"] = ""
        rows = [list(columns.values()), ["---"] * len(columns)]
        for line in self.lines:
            cells = [shown(line.get(key)) for key in self.columns]
            rows.append(cells + ([note(line).strip()] if "note" in columns else []))
        return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def shown(value: object) -> str:
    """A cell: three digits of a number, yes or no, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def note(line: dict[str, Any]) -> str:
    """What went wrong with a line, or nothing."""
    return "".join(f"  {key}: {line[key]}" for key in TROUBLE if key in line)
