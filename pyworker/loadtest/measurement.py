"""What a load test counts while it runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """One failed request: failures of a `kind` are counted together, one `example` of each is shown."""

    kind: str
    example: str


@dataclass(frozen=True)
class FailureCount:
    count: int
    example: str


@dataclass(frozen=True)
class Summary:
    """The figures at one moment. Latencies are seconds of the successful requests, in rising order."""

    sent: int
    succeeded: int
    failures: Mapping[str, FailureCount]
    latencies: tuple[float, ...]
    elapsed: float
    worst_start_delay: float

    @property
    def failed(self) -> int:
        return sum(failure.count for failure in self.failures.values())

    @property
    def in_flight(self) -> int:
        return self.sent - self.succeeded - self.failed

    @property
    def achieved_rps(self) -> float:
        """Successful answers per second of the test."""
        return self.succeeded / self.elapsed if self.elapsed > 0 else 0.0

    def percentile(self, share: float) -> float | None:
        """The latency that `share` of the successful requests did not exceed (nearest rank)."""
        if not self.latencies:
            return None
        return self.latencies[max(0, math.ceil(share * len(self.latencies)) - 1)]


class Measurement:
    """Counts requests as they start and end. Any thread may call any method; times are monotonic."""

    def __init__(self) -> None:
        # Guards every field below.
        self._lock = threading.Lock()
        self._first: float | None = None
        self._last_end: float | None = None
        self._sent = 0
        self._latencies: list[float] = []
        self._failures: dict[str, FailureCount] = {}
        self._worst_start_delay = 0.0

    def started(self, scheduled: float, now: float) -> None:
        with self._lock:
            if self._first is None:
                self._first = scheduled
            self._sent += 1
            self._worst_start_delay = max(self._worst_start_delay, now - scheduled)

    def ended(self, scheduled: float, now: float, failure: Failure | None) -> None:
        """The latency counts from the scheduled start: a late start is a wait that a user would feel."""
        with self._lock:
            self._last_end = now
            if failure is None:
                self._latencies.append(now - scheduled)
                return
            known = self._failures.get(failure.kind, FailureCount(0, failure.example))
            self._failures[failure.kind] = FailureCount(known.count + 1, known.example)

    def summary(self) -> Summary:
        with self._lock:
            first = self._first or 0.0
            last = self._last_end or first
            return Summary(
                sent=self._sent,
                succeeded=len(self._latencies),
                failures=dict(self._failures),
                latencies=tuple(sorted(self._latencies)),
                elapsed=last - first,
                worst_start_delay=self._worst_start_delay,
            )

    def progress(self) -> tuple[int, int, int]:
        """Sent, succeeded and failed so far; cheap enough to ask every second of a long test."""
        with self._lock:
            failed = sum(failure.count for failure in self._failures.values())
            return self._sent, len(self._latencies), failed

    def __repr__(self) -> str:
        sent, succeeded, failed = self.progress()
        return f"<Measurement [{sent} sent, {succeeded} succeeded, {failed} failed]>"
