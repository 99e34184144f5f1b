"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds until a test gives up; generous, since the machine may be busy.
DEADLINE = 20.0
_PAUSE = 0.01


def wait_until(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
    """Return as soon as `condition()` is true; AssertionError that names `what` where it never is."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        pause.wait(_PAUSE)


def wait_event(event: threading.Event, what: str, timeout: float = DEADLINE) -> None:
    """Return once `event` is set; AssertionError that names `what` where it never is."""
    assert event.wait(timeout), f"not within {timeout:g} s: {what}"
