"""Text that any program wrote: decoded by its byte order mark."""

from __future__ import annotations

import json


def decode(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, without its byte order mark.

    Raises:
        ValueError: it is in none of these.
    """
    return data.decode(json.detect_encoding(data))
