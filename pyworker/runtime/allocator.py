"""Settings of glibc's allocator, whose defaults keep the memory of large bodies after they are freed."""

from __future__ import annotations

import ctypes

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

# Blocks of this size and more go back to the system as soon as they are freed. Setting it fixes it: glibc
# would raise it to the size of the largest block freed so far. Well above the pieces in which bodies are
# read.
_LARGE = 4 * 2**20
# Bytes that may stay free at the end of the heap. With the default of 128 KiB each piece of a body gives its
# pages back, and the next one asks for them again: half the time of a request of 1 MB.
_KEPT = 8 * 2**20
# Because of the GIL nearly always one thread allocates at a time. An arena for each thread would keep what
# that thread has freed.
_ARENAS = 1


def tune() -> None:
    """Call before the first thread starts; has no effect with another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_ARENA_MAX, _ARENAS)
