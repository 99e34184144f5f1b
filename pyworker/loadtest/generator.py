"""Starts requests on schedule, however long earlier ones take: an open loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pyworker.loadtest.measurement import Failure, Measurement

MAX_IN_FLIGHT = 1_000
"""More threads than this would measure the load test itself; later requests wait, and that counts."""

Send = Callable[[], Failure | None]
"""Sends one request and waits for its answer; returns why it failed, None when it did not."""


class Generator:
    """Sends `count` requests, `rps` each second. `start` is called once; the rest from any thread."""

    def __init__(self, send: Send, count: int, rps: float, measurement: Measurement) -> None:
        self._send = send
        self._count = count
        self._interval = 1.0 / rps
        self._measurement = measurement
        self._stopping = threading.Event()
        self._done = threading.Event()
        # Guards `_in_flight`; notified when a request ends and when stopping begins.
        self._changed = threading.Condition()
        self._in_flight = 0
        self._thread = threading.Thread(target=self._run, name="pyworker-loadtest", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Start no further requests; those in flight go on."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether every request has ended, waiting at most so long."""
        return self._done.wait(seconds)

    def _run(self) -> None:
        begin = time.monotonic()
        for number in range(self._count):
            scheduled = begin + number * self._interval
            if self._stopping.wait(max(0.0, scheduled - time.monotonic())) or not self._take():
                break
            self._measurement.started(scheduled, time.monotonic())
            threading.Thread(
                target=self._request, args=(scheduled,), name=f"pyworker-loadtest-{number}", daemon=True
            ).start()
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0)
        self._done.set()

    def _take(self) -> bool:
        """Wait for a free place in flight; False when stopping came first."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight < MAX_IN_FLIGHT or self._stopping.is_set())
            if self._stopping.is_set():
                return False
            self._in_flight += 1
            return True

    def _request(self, scheduled: float) -> None:
        try:
            failure = self._send()
        except Exception as error:  # noqa: BLE001 - a request that never ends would hang the whole test
            failure = Failure(type(error).__name__, str(error))
        self._measurement.ended(scheduled, time.monotonic(), failure)
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def __repr__(self) -> str:
        with self._changed:
            state = "stopping" if self._stopping.is_set() else "running"
            return f"<Generator [{state}, {self._in_flight} in flight]>"
