"""Settings of writing a report again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Whose report is written again."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, an evaluation, a sweep, or prepared data: out/RUN."""
