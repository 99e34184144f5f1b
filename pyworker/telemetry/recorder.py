"""The last requests, and who is told of each."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from pyworker.telemetry.record import RequestRecord

#: Requests that are remembered.
REMEMBERED = 500
# Records that wait for the next step; if there are more in one interval, the oldest are in no metric.
_MAX_WAITING = 50_000
_INTERVAL = 0.5

Sink = Callable[[Sequence[RequestRecord]], None]


class Recorder:
    """Thread-safe. A request only appends its record; the sinks are told by `step`, on a thread of its own.

    now: epoch seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        #: Whether requests get a `TraceContext`. Set before the start of the threads.
        self.traces = False
        # Bounded deques: append and popleft are atomic.
        self._recent: deque[RequestRecord] = deque(maxlen=REMEMBERED)
        self._refused: deque[RequestRecord] = deque(maxlen=REMEMBERED)
        self._waiting: deque[RequestRecord] = deque(maxlen=_MAX_WAITING)
        # Held while the sinks are told, so that they are told in order.
        self._telling = threading.Lock()
        self._sinks: list[Sink] = []

    def tell(self, sink: Sink) -> None:
        """Call it with what ended since the last time. Before the start of the threads."""
        self._sinks.append(sink)

    def ended(self, record: RequestRecord) -> None:
        """A request ended that had been admitted."""
        self._recent.append(record)
        self._waiting.append(record)

    def refused(self, record: RequestRecord) -> None:
        """A request was refused, perhaps of somebody unknown: many of them do not displace the others."""
        self._refused.append(record)
        self._waiting.append(record)

    def recent(self) -> Iterable[RequestRecord]:
        """Those that ended, oldest first."""
        return self._recent.copy()

    def recently_refused(self) -> Iterable[RequestRecord]:
        """Those that were refused, oldest first."""
        return self._refused.copy()

    def step(self) -> float:
        """Tell the sinks; returns the seconds until the next time."""
        self.flush()
        return _INTERVAL

    def flush(self) -> None:
        """Tell the sinks of all that ended by now."""
        with self._telling:
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if batch:
                for sink in self._sinks:
                    sink(batch)

    def __repr__(self) -> str:
        return f"<Recorder [{len(self._recent)} ended, {len(self._refused)} refused]>"
