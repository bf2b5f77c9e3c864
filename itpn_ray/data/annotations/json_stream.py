"""Reads a JSON object too large for memory, element by element of its arrays."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, Protocol

from itpn_ray.data.sources.text import encoding_of

_CHUNK = 4 << 20
_BLANK = " \t\r\n"
# Only before one of these is a value known to have ended.
_AFTER = frozenset(",:]}" + _BLANK)


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, nbytes: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


def stream_object(stream: Readable) -> Iterator[tuple[str, Any]]:
    """Walk a JSON object without holding it, in UTF-8, UTF-16 or UTF-32.

    Yields:
        (key, value) for each key; for a key with an array, (key, element) for each element.

    Raises:
        ValueError: it is not a JSON object, or is cut off.
    """
    text = _Text(stream)
    text.expect("{")
    if text.peek() == "}":
        return
    while True:
        key = text.value()
        text.expect(":")
        if text.peek() == "[":
            for element in _array(text):
                yield key, element
        else:
            yield key, text.value()
        if text.expect(",}") == "}":
            return


def _array(text: _Text) -> Iterator[Any]:
    text.expect("[")
    if text.peek() == "]":
        text.expect("]")
        return
    while True:
        yield text.value()
        if text.expect(",]") == "]":
            return


class _Text:
    """The part of the text that is in memory, and the place reached in it."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._decoder: codecs.IncrementalDecoder | None = None  # the first bytes tell which
        self._parse = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """The next character that is not blank, without passing it."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANK:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                raise ValueError("the file is cut off")
            self._more()

    def expect(self, characters: str) -> str:
        """Pass the next character, which must be one of these."""
        found = self.peek()
        if found not in characters:
            raise ValueError(f"{found!r} where one of {characters!r} should be")
        self._at += 1
        return found

    def value(self) -> Any:
        """Parse and pass the next value."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError:
                # It may only be that the value is not whole in
                # memory yet: more text, then again from its start.
                if self._ended:
                    raise
            else:
                # A number that reaches the end of what is in memory, or a point, may go on.
                if self._ended or self._text[end : end + 1] in _AFTER:
                    self._at = end
                    return value
            self._more()

    def _more(self) -> None:
        data = self._stream.read(_CHUNK)
        self._ended = not data
        if self._decoder is None:
            encoding, mark = encoding_of(data)
            self._decoder = codecs.getincrementaldecoder(encoding)()
            data = data[mark:]
        # What has been passed is dropped, so memory holds one chunk and one value.
        self._text = self._text[self._at :] + self._decoder.decode(data, final=self._ended)
        self._at = 0
