"""Settings whose options have no prefix: `spot_wait` of the placement is --spot-wait."""

from __future__ import annotations

from typing import Any

try:
    from tyro.conf import arg
except ImportError:  # only the command line needs it; tasks and benchmarks run without
    UNPREFIXED: Any = None
else:
    UNPREFIXED = arg(name="")
