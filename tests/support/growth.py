"""How the time of a parser grows with its input."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable
from typing import TypeVar

from pyworker.runtime import allocator

Input = TypeVar("Input")

#: Twice the input may take this many times as long: 2 if it is linear, 4 if it is quadratic.
LIMIT = 2.5
_ROUNDS = 3
_TRIES = 4
_LEAST_SECONDS = 0.002

# As in the worker. With glibc's defaults each round on a large input gives its pages back to the system and
# asks for them again, a round on a small one does not. A busy machine makes that look like a parser's fault.
allocator.tune()


def assert_linear(act: Callable[[Input], object], make: Callable[[int], Input], size: int) -> None:
    """AssertionError unless the time of `act` grows at most `LIMIT` times with each doubling of its input.

    Measured over two doublings, from `make(size // 2)` to `make(2 * size)`: a busy machine makes a single
    one look up to twice as long. Counted is the CPU time of this thread, the least of several rounds. What
    `act` raises is a result as any other: to refuse an input takes its time as well.
    """
    small, large = make(size // 2), make(2 * size)
    repeats = 1
    while cpu_seconds(lambda: act(small), repeats) < _LEAST_SECONDS:
        repeats *= 2  # so that the clock can measure it
    growth = 0.0
    for _ in range(_TRIES):
        ratio = cpu_seconds(lambda: act(large), repeats) / cpu_seconds(lambda: act(small), repeats)
        growth = math.sqrt(ratio)
        if growth <= LIMIT:
            return
    raise AssertionError(
        f"each doubling of the input, from {size // 2} to {2 * size}, takes {growth:.1f} times as long"
    )


def assert_at_most(times: float, large: Callable[[], float], small: Callable[[], float]) -> None:
    """AssertionError unless `large` returns at most so many times as many seconds as `small`.

    The two are measured one after the other, several times if need be: a machine that is busy for a while
    counts in both.
    """
    ratio = math.inf
    for _ in range(_TRIES):
        ratio = large() / small()
        if ratio <= times:
            return
    raise AssertionError(f"it takes {ratio:.1f} times as long, and at most {times:g} are right")


def cpu_seconds(act: Callable[[], object], repeats: int = 1) -> float:
    """CPU time of this thread to do it so often, the least of several rounds."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return min(_round(act, repeats) for _ in range(_ROUNDS))
    finally:
        if was_enabled:
            gc.enable()


def _round(act: Callable[[], object], repeats: int) -> float:
    began = time.thread_time()
    for _ in range(repeats):
        with contextlib.suppress(Exception):
            act()
    return time.thread_time() - began
