"""Settings whose options have no prefix: --spot-wait, not --placement.spot-wait."""

from __future__ import annotations

from typing import Any

try:
    from tyro.conf import arg
except ImportError:  # only the command line needs it; tasks and benchmarks run without
    UNPREFIXED: Any = None
else:
    UNPREFIXED = arg(name="")
