"""Settings of glibc's allocator, whose own guesses keep the memory of large bodies after they are gone."""

from __future__ import annotations

import ctypes

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

# Blocks from this size on go back to the system as soon as they are freed. Once set it stays; else the
# first freed block of 10 MB would make glibc keep all up to that size. Well above the pieces in which bodies
# are read.
_LARGE = 4 * 2**20
# So much that is free at the end of the heap stays there. By default it is 128 KiB, and then each piece of a
# body gives its pages back, for the next one to ask for them again: half the time of a request of 1 MB.
_KEPT = 8 * 2**20
# Nearly always one thread allocates at a time, for there is one interpreter; an arena for each thread would
# keep what that thread has freed.
_ARENAS = 1


def tune() -> None:
    """Before the first thread; without effect where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_ARENA_MAX, _ARENAS)
