"""Log lines that may come in floods: the first of a kind is written, others are counted for a while."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator

#: Seconds between two lines of one kind.
INTERVAL = 10.0
# Kinds that are remembered; the one whose last line is oldest is forgotten first.
_KINDS = 64


@contextlib.contextmanager
def silenced() -> Generator[None]:
    """Within the block nothing of this library is logged: for programs that print what there is to say."""
    logger, nowhere = logging.getLogger("pyworker"), logging.NullHandler()
    propagates = logger.propagate
    logger.addHandler(nowhere)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagates
        logger.removeHandler(nowhere)


class LogLimit:
    """Decides which line of a kind is written, and counts the others. Thread-safe."""

    def __init__(self, interval: float = INTERVAL, now: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._now = now
        # Guards _kinds (kind -> when its last line was written, and how many were not since).
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}

    def suffix(self, kind: str) -> str | None:
        """What to append to the line; None if it is not to be written."""
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
