"""One request as the ledger tracks it, from admission to its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pyworker.data_types import AuthData
from pyworker.reporting.wire import FinishedRequest, Outcome


@dataclass(frozen=True)
class Clock:
    """Monotonic time for intervals, wall time (epoch seconds) for the wire only."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class Kind(Enum):
    """The kinds of entries in the ledger.

    A session is reported like a request, but no request queues behind it, as it does no work. The requests in
    a session do work, but are reported as workload only: they have the index of the session. So are those of
    clients with an API key, which the autoscaler has not sent.
    """

    REQUEST = "request"
    SESSION = "session"
    IN_SESSION = "request in a session"
    DIRECT = "request with an API key"

    @property
    def is_recorded(self) -> bool:
        """Whether the autoscaler is told of each entry of this kind."""
        return self in _RECORDED


_RECORDED = (Kind.REQUEST, Kind.SESSION)


class RequestTracker:
    """One request in the ledger, from admission to its one outcome. The ledger's lock guards the outcome.

    end_in_ledger: closes the entry, as `Ledger.end` does.
    """

    def __init__(
        self,
        auth_data: AuthData,
        workload: float,
        clock: Clock,
        kind: Kind,
        end_in_ledger: Callable[[RequestTracker, Outcome, float | None], bool],
    ) -> None:
        self.workload = workload
        self.kind = kind
        # The first form of a signature has no index; its reqnum is unique too.
        self.request_idx = auth_data.reqnum if auth_data.request_idx is None else auth_data.request_idx
        self._end_in_ledger = end_in_ledger
        self._clock = clock
        self._entered = clock.monotonic()
        self._entered_wall = clock.wall()
        self._started: float | None = None
        self.admitted = False
        self.outcome: Outcome | None = None
        #: The work done, once there is an outcome.
        self.work = 0.0

    @property
    def is_working(self) -> bool:
        """Whether its turn in the queue has come."""
        return self._started is not None

    def start_work(self) -> None:
        """The request is being sent to the model server."""
        self._started = self._clock.monotonic()

    def end(self, outcome: Outcome, *, work: float | None = None) -> bool:
        """Set the outcome. True if it is the first one; later ones are ignored.

        work: done for it, as measured, in the unit of its workload; None if that is unknown: all of its
        workload if it succeeded, else nothing.
        """
        return self._end_in_ledger(self, outcome, work)

    def close(self) -> None:
        """Set the outcome to cancelled, unless there is one."""
        self.end(Outcome.CANCELLED)

    def record(self, outcome: Outcome) -> FinishedRequest:
        """The record for the report. Later times are the first one plus monotonic intervals."""
        completed = outcome in (Outcome.SUCCESS, Outcome.ERROR)
        return FinishedRequest.of(
            outcome,
            self.request_idx,
            self._entered_wall,
            self._wall_at(self._started),
            self._wall_at(self._clock.monotonic() if completed else None),
        )

    def _wall_at(self, moment: float | None) -> float:
        return 0.0 if moment is None else self._entered_wall + moment - self._entered

    def __repr__(self) -> str:
        state = self.outcome.value if self.outcome else "working" if self._started else "queued"
        return f"<RequestTracker {self.kind.value} {self.request_idx} {state} workload={self.workload:g}>"
