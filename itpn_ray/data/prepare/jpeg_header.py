"""Looks at a JPEG's header, without decoding anything."""

from __future__ import annotations

# Start-of-frame markers: baseline, extended sequential and progressive, Huffman coded.
_PLAIN_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
# Lossless, hierarchical or arithmetic coded, which not every libjpeg decodes.
_OTHER_FRAMES = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
# TEM, the restart markers and SOI stand alone; every other marker has a length.
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_SCAN_OR_END = frozenset((0xDA, 0xD9))


def is_plain_jpeg(data: bytes) -> bool:
    """Whether the frame is 8-bit, Huffman coded, baseline or progressive, of one or three channels.

    These are the JPEGs that every libjpeg decodes. ``False`` for anything else, also for bytes that
    are not a JPEG at all.
    """
    # SOI, which every JPEG begins with.
    if data[:2] != b"\xff\xd8":
        return False
    at = 2
    # A marker and its length are four bytes.
    while at + 4 <= len(data):
        if data[at] != 0xFF:  # stray bytes between segments: decoders search for the next marker
            at += 1
            continue
        marker = data[at + 1]
        if marker in _PLAIN_FRAMES:
            # Marker, length, bits a sample, height, width, channels: byte 4 and byte 9.
            return len(data) > at + 9 and data[at + 4] == 8 and data[at + 9] in (1, 3)
        if marker in _OTHER_FRAMES or marker in _SCAN_OR_END:
            return False
        if marker in (0xFF, 0x00):  # fill bytes
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        else:
            # The length counts its own two bytes, but not the marker's.
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
