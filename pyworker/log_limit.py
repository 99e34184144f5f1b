"""Log lines of a kind that may come in floods: the first is written at once, the others are counted. Pure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds between two lines of one kind.
INTERVAL = 10.0
# More kinds than this are no kinds any more: the oldest is forgotten.
_KINDS = 64


class LogLimit:
    """Says which line of a kind is to be written, and how many like it were not. Thread-safe."""

    def __init__(self, interval: float = INTERVAL, now: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._now = now
        # Guards _kinds (kind -> when its last line was written, and how many were not since).
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}

    def suffix(self, kind: str) -> str | None:
        """What to write behind the line; None if it is not to be written now."""
        with self._lock:
            now = self._now()
            written_at, withheld = self._kinds.get(kind, (now - self._interval, 0))
            if now - written_at < self._interval:
                self._kinds[kind] = (written_at, withheld + 1)
                return None
            self._kinds.pop(kind, None)  # so that the order is that of the last lines
            self._kinds[kind] = (now, 0)
            if len(self._kinds) > _KINDS:
                del self._kinds[next(iter(self._kinds))]
        return f" ({withheld} more like it since the last line)" if withheld else ""

    def __repr__(self) -> str:
        return f"<LogLimit [{len(self._kinds)} kinds]>"
