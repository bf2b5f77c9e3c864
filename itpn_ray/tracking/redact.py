"""Keeping secrets out of whatever is tracked, logged or reported."""

from __future__ import annotations

import os
import re

HIDDEN = "***"

# user:password@ up to the last @ of the word (passwords may hold @ and /), or a bare token@.
_USER_INFO = re.compile(r"://(?:[^\s\"'/@:]*:[^\s\"']*|[^\s\"'/@]+)@")
_QUERY = re.compile(
    r"([?&][\w.-]*(?:secret|token|password|passwd|signature|credential|key)[\w.-]*=)[^&\s\"']+",
    re.IGNORECASE,
)
# Tokens of a transformer are no secrets, so the bare word only counts where it is the whole name.
_SECRET_NAME = re.compile(
    r"secret|password|passwd|credential|(api|access|private)_?key"
    r"|(auth|access|api|bearer)_?token|(^|\.)token$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(
    r"(SECRET|TOKEN|PASSWORD|PASSWD|KEY|KEY_ID|CREDENTIALS?)$", re.IGNORECASE
)
_SHORTEST_SECRET = 8


def redact(text: str) -> str:
    """Hide user names and passwords of URIs, signed queries, and values of secret variables.

    Args:
        text: any text: a URI, a command line, a whole log.

    Returns:
        The text with ``***`` in place of each secret.
    """
    text = _USER_INFO.sub(f"://{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<1>{HIDDEN}", text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLE.search(name):
            text = text.replace(value, HIDDEN)
    return text


def redact_value(name: str, value: object) -> str:
    """The text of a parameter, hidden whole where its name says that it is a secret."""
    if value and _SECRET_NAME.search(name):
        return HIDDEN
    return redact(str(value))
