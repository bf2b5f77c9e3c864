"""Text as programs save it: UTF-8, with a byte order mark or without, and UTF-16."""

from __future__ import annotations

import codecs

from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

# UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LOOK = 4096


def read_bytes(uri: str) -> bytes:
    """A small file, local or remote.

    Raises:
        DataError: it cannot be read.
    """
    fs, path = filesystem(uri)
    try:
        with fs.open_input_stream(path) as stream:
            return stream.read()
    except OSError as error:
        raise DataError(uri, None, f"cannot be read: {error}", "Check the path") from error


def read_text(uri: str) -> str:
    """A small text file, without its byte order mark and with ``\\n`` at the ends of lines.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    data = read_bytes(uri)
    encoding, mark = encoding_of(data)
    try:
        text = data[mark:].decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: mark + error.start].count(b"\n") + 1
        raise DataError(
            f"{uri}, line {line}",
            None,
            f"is not {encoding.upper()} text (byte 0x{error.object[error.start]:02x})",
            "Save it as UTF-8",
        ) from error
    if "\0" in text:
        raise DataError(uri, None, "is no text: it holds zero bytes", "Check the path")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, without its byte order mark.

    Raises:
        ValueError: it is in none of these.
    """
    encoding, mark = encoding_of(data)
    return data[mark:].decode(encoding)


def read_lines(uri: str) -> list[str]:
    """The lines of a small text file that are not blank, stripped.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    return [line.strip() for line in read_text(uri).split("\n") if line.strip()]


def encoding_of(data: bytes) -> tuple[str, int]:
    """The encoding of a text by its first bytes, and the length of its byte order mark."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    for place, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        high = data[place:_LOOK:2]  # zero for Latin letters
        if high and high.count(0) > len(high) / 2:
            return encoding, 0
    return "utf-8", 0
