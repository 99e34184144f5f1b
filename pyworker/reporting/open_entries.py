"""What is in hand: the trackers without an outcome, and since when there are any."""

from __future__ import annotations

from collections.abc import Callable

from pyworker.reporting.tracker import RequestTracker


class OpenEntries:
    """The trackers without an outcome, and their total workload. Guarded by the ledger's lock.

    now: monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.trackers: dict[int, RequestTracker] = {}
        self.load = 0.0
        self._now = now
        self._busy = 0.0
        self._busy_since = 0.0

    def add(self, tracker: RequestTracker) -> None:
        if not self.trackers:
            self._busy_since = self._now()
        self.trackers[id(tracker)] = tracker
        self.load += tracker.workload

    def remove(self, tracker: RequestTracker) -> None:
        del self.trackers[id(tracker)]
        if self.trackers:
            self.load -= tracker.workload
        else:
            # Exactly 0 if nothing is open, so that rounding errors do not add up.
            self.load = 0.0
            self._busy += self._now() - self._busy_since

    @property
    def busy_seconds(self) -> float:
        """For how long there was any."""
        return self._busy + (self._now() - self._busy_since if self.trackers else 0.0)
