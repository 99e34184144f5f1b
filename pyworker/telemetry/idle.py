"""How much of the time nothing was in hand."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

#: Seconds that are looked back.
LENGTH = 60.0
_APART = 1.0


class Shares(NamedTuple):
    """Parts of a time, from 0 to 1."""

    last_minute: float
    since_start: float


class IdleTime:
    """The idle share, by a sample each second. Thread-safe.

    busy: the seconds since the start in which something was in hand. now: monotonic seconds.
    """

    def __init__(self, busy: Callable[[], float], now: Callable[[], float] = time.monotonic) -> None:
        self._busy = busy
        self._now = now
        # Guards _samples: moments, each with the busy seconds up to it; the oldest is LENGTH old at least.
        self._lock = threading.Lock()
        self._first = (now(), busy())
        self._samples = deque([self._first])

    def sample(self) -> None:
        """Take note of now. At least every few seconds."""
        now, busy = self._now(), self._busy()
        with self._lock:
            samples = self._samples
            if now - samples[-1][0] >= _APART:
                samples.append((now, busy))
            while len(samples) > 1 and now - samples[1][0] >= LENGTH:
                samples.popleft()

    def shares(self) -> Shares:
        """Up to now."""
        self.sample()
        now, busy = self._now(), self._busy()
        with self._lock:
            oldest = self._samples[0]
        return Shares(*(_idle(since, (now, busy)) for since in (oldest, self._first)))

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._now() - self._first[0]

    def __repr__(self) -> str:
        return f"<IdleTime [{len(self._samples)} samples]>"


def _idle(since: tuple[float, float], until: tuple[float, float]) -> float:
    """1 for a time of no length."""
    seconds = until[0] - since[0]
    return 1.0 if seconds <= 0 else min(max(1.0 - (until[1] - since[1]) / seconds, 0.0), 1.0)
