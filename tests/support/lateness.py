"""How late threads of this process run: what a busy machine adds to every time that a test measures."""

from __future__ import annotations

import threading
import time
from types import TracebackType

_INTERVAL = 0.01


class Lateness:
    """Measures while the block runs, on a thread of its own."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._delays: list[float] = []
        self._thread = threading.Thread(target=self._measure, name="lateness", daemon=True)

    def __enter__(self) -> Lateness:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _measure(self) -> None:
        asleep_at = time.monotonic()
        while not self._stop.wait(_INTERVAL):
            now = time.monotonic()
            self._delays.append(now - asleep_at - _INTERVAL)
            asleep_at = now

    @property
    def usual(self) -> float:
        """Seconds; nine of ten times a thread was no later. After the block."""
        return sorted(self._delays)[len(self._delays) * 9 // 10]
