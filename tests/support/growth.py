"""Whether a parser takes time in proportion to its input, whatever that holds."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from typing import TypeVar

Input = TypeVar("Input")

#: What twice the input may cost. In proportion is 2; what grows with the square is 4, with the cube 8.
LIMIT = 2.5
# The lowest of several: what else the machine does only ever adds to it.
_RUNS = 3
_ATTEMPTS = 3
# Seconds of CPU time below which a figure says more about the clock.
_LEAST = 0.001


def assert_linear(parse: Callable[[Input], object], make: Callable[[int], Input], size: int) -> None:
    """Parse `make(size)` and `make(2 * size)`, or larger ones if that takes no time, and compare the two.

    What `parse` raises is an answer as any other.
    """
    while cpu_time(parse, make(size)) < _LEAST and size < 1_000_000:
        size *= 2
    ratio = LIMIT
    for _ in range(_ATTEMPTS):
        once, twice = cpu_time(parse, make(size)), cpu_time(parse, make(2 * size))
        ratio = twice / max(once, 1e-6)
        if ratio < LIMIT or twice < _LEAST:
            return
    raise AssertionError(f"{ratio:.1f} times the CPU time for twice an input of {size}")


def cpu_time(parse: Callable[[Input], object], data: Input) -> float:
    """Seconds of CPU time, of this thread alone."""
    best = float("inf")
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(_RUNS):
            started = time.thread_time()
            with contextlib.suppress(Exception):  # to refuse an input takes its time as well
                parse(data)
            best = min(best, time.thread_time() - started)
    finally:
        if was_enabled:
            gc.enable()
    return best
