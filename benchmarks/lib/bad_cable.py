"""A cable between two interfaces on which frames are late, and some are lost.

    python -m benchmarks.lib.bad_cable ONE OTHER SECONDS FRACTION
    python -m benchmarks.lib.bad_cable --plain INTERFACE

The kernel's own way (netem) is a module that many machines lack. The second form turns off what a
virtual interface leaves to hardware that it has not, checksums and the cutting of segments, so that
frames are what a real cable would carry.
"""

from __future__ import annotations

import array
import fcntl
import heapq
import random
import select
import socket
import struct
import sys
import time

_ALL = 0x0003  # ETH_P_ALL: frames of any protocol
_ETHTOOL, _SET_CHECKSUMS = 0x8946, 0x17  # SIOCETHTOOL, ETHTOOL_STXCSUM
_OUTGOING = 4  # PACKET_OUTGOING: frames that this end has sent itself
_LARGEST = 1 << 16


def carry(one: str, other: str, seconds: float, fraction: float) -> None:
    """Carry frames both ways for ever.

    Args:
        one: name of an interface.
        other: name of the other one.
        seconds: how late each frame is.
        fraction: how many are lost.
    """
    ends = [_opened(one), _opened(other)]
    rng = random.Random(0)
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 1.0
        for end in select.select(ends, [], [], pause)[0]:
            frame, (_, _, kind, *_) = end.recvfrom(_LARGEST)
            if kind != _OUTGOING and rng.random() >= fraction:
                number += 1
                due = time.monotonic() + seconds
                heapq.heappush(waiting, (due, number, 1 - ends.index(end), frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, frame = heapq.heappop(waiting)
            ends[end].send(frame)


def plain(interface: str) -> None:
    """Let the kernel compute checksums of an interface, and cut segments, itself."""
    value = array.array("B", struct.pack("II", _SET_CHECKSUMS, 0))
    request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _ETHTOOL, request)


def _opened(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    end.bind((interface, _ALL))
    return end


if __name__ == "__main__":
    if sys.argv[1] == "--plain":
        plain(sys.argv[2])
    else:
        carry(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
