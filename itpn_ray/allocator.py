"""Memory pages of a process that decodes or trains on its CPU."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's names in malloc.h
_LARGEST_IN_HEAP = 32 * 2**20  # as much as glibc takes for the last of them


def keep_pages() -> None:
    """Let this process keep the memory that it frees, for its next tensors.

    glibc returns freed memory to the system, which hands it out again page by page, each wiped and
    mapped anew: a training step of Fast-iTPN-B on four images met 200,000 such faults, a quarter
    to a third of its time, and each decoded image 19. Tensors above 32 MiB still come and go, so
    that steps of changing sizes do not break the heap up. Other C libraries have no such switch,
    and nothing is done there.
    """
    switch = getattr(ctypes.CDLL(None), "mallopt", None)
    if switch is None:
        return
    switch(_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
    switch(_TRIM_THRESHOLD, -1)  # never
    switch(_TOP_PAD, 64 * 2**20)  # threads' heaps are cut back in steps of so much
