"""How the time of a parser grows with its input."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from typing import TypeVar

Input = TypeVar("Input")

#: Twice the input may take this many times as long: 2 if it is linear, 4 if it is quadratic.
LIMIT = 2.5
_ROUNDS = 5
_TRIES = 4
_LEAST_SECONDS = 0.004


def assert_linear(act: Callable[[Input], object], make: Callable[[int], Input], size: int) -> None:
    """AssertionError unless `act(make(2 * size))` takes at most `LIMIT` times as long as `act(make(size))`.

    Counted is the CPU time of this thread, the least of several rounds, so that a busy machine changes
    little. What `act` raises is a result as any other: to refuse an input takes its time as well.
    """
    small, large = make(size), make(2 * size)
    repeats = _repeats(act, small)
    ratio = 0.0
    for _ in range(_TRIES):
        pairs = [(_seconds(act, small, repeats), _seconds(act, large, repeats)) for _ in range(_ROUNDS)]
        ratio = min(pair[1] for pair in pairs) / min(pair[0] for pair in pairs)
        if ratio <= LIMIT:
            return
    raise AssertionError(f"twice the input ({2 * size} instead of {size}) takes {ratio:.1f} times as long")


def _repeats(act: Callable[[Input], object], value: Input) -> int:
    """How often to do it so that the clock can measure it."""
    repeats = 1
    while _seconds(act, value, repeats) < _LEAST_SECONDS:
        repeats *= 2
    return repeats


def _seconds(act: Callable[[Input], object], value: Input, repeats: int) -> float:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        began = time.thread_time()
        for _ in range(repeats):
            with contextlib.suppress(Exception):
                act(value)
        return time.thread_time() - began
    finally:
        if was_enabled:
            gc.enable()
