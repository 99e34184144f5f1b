"""How long a client may take to send its request. A thread blocked on a slow one is set free by a hang-up."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Generator

logger = logging.getLogger(__name__)

#: Seconds for the head of a request, TLS handshake included.
HEAD_SECONDS = 10.0
#: Seconds for a body: so many, and one more for each so many bytes.
BODY_SECONDS = 30.0
BODY_BYTES_PER_SECOND = 64 * 1024
_TICK = 1.0


class ReadDeadlines:
    """Connections that are being read, and when the patience with each ends. Thread-safe."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Guards _ends: reader -> (deadline, how to get at its socket).
        self._lock = threading.Lock()
        self._ends: dict[object, tuple[float, Callable[[], socket.socket]]] = {}

    def watch(self, reader: object, connection: Callable[[], socket.socket], seconds: float) -> None:
        """Hang up on `connection()` unless `forget(reader)` comes within so many seconds."""
        with self._lock:
            self._ends[reader] = (self._now() + seconds, connection)

    def forget(self, reader: object) -> None:
        """It was read; without effect where it is not watched."""
        with self._lock:
            self._ends.pop(reader, None)

    @contextlib.contextmanager
    def body(self, connection: socket.socket | None, size: int) -> Generator[None]:
        """Bound the reading of a body of `size` bytes from `connection` (None: there is no socket)."""
        if connection is None:
            yield
            return
        reader = object()
        self.watch(reader, lambda: connection, BODY_SECONDS + size / BODY_BYTES_PER_SECOND)
        try:
            yield
        finally:
            self.forget(reader)

    def step(self) -> float:
        """Hang up on those whose time is over; seconds until the next look."""
        now = self._now()
        with self._lock:
            late = [(reader, get) for reader, (deadline, get) in self._ends.items() if deadline <= now]
            for reader, _ in late:
                del self._ends[reader]
        for _, get in late:
            with contextlib.suppress(OSError):  # it ended just now
                get().shutdown(socket.SHUT_RDWR)
        if late:
            logger.info("hung up on %d clients that were too slow to send their request", len(late))
        return _TICK

    def __repr__(self) -> str:
        return f"<ReadDeadlines [{len(self._ends)} being read]>"
