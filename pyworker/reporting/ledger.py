"""The ledger: counts requests and workload, and fills the reports."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pyworker.data_types import AuthData
from pyworker.errors import LimitReached
from pyworker.reporting.figures import Counts, Limits
from pyworker.reporting.open_entries import OpenEntries
from pyworker.reporting.tracker import Clock, Kind, RequestTracker
from pyworker.reporting.wire import (
    PROTOCOL_VERSION,
    FinishedRequest,
    Identity,
    ModelFigures,
    Outcome,
    StatusReport,
)

#: Number of recent indices that are remembered, to distinguish a retried request from a new one.
_REMEMBERED_INDICES = 10_000


@dataclass
class _Since:
    """Workload since the last accepted report, and the load time not yet reported."""

    received: float = 0.0
    cancelled: float = 0.0
    rejected: float = 0.0
    served: float = 0.0
    #: How much more than was received the requests that ended turned out to be; below 0: less.
    settled: float = 0.0
    loadtime: float = 0.0

    @property
    def new_load(self) -> float:
        return self.received - self.cancelled + self.settled

    def minus(self, other: _Since) -> _Since:
        return _Since(
            self.received - other.received,
            self.cancelled - other.cancelled,
            self.rejected - other.rejected,
            self.served - other.served,
            self.settled - other.settled,
            self.loadtime - other.loadtime,
        )


@dataclass(frozen=True)
class Snapshot:
    """A report, and the figures to subtract once it was accepted."""

    report: StatusReport
    since: _Since
    disk_usage: float
    revision: int


class Ledger:
    """The ledger. Thread-safe: one lock, held for arithmetic only.

    on_finished is called outside the lock with the record of each request that ended, and on_change after
    each change that a status report should carry.
    """

    def __init__(
        self,
        on_finished: Callable[[FinishedRequest], object],
        clock: Clock | None = None,
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.clock = clock or Clock()
        self._on_finished = on_finished
        self._on_change = on_change
        self._started_at = self.clock.monotonic()
        # Guards everything below.
        self._lock = threading.Lock()
        self._requests = OpenEntries(self.clock.monotonic)
        self._sessions = OpenEntries(self.clock.monotonic)
        self._received = 0
        self._ended = dict.fromkeys(Outcome, 0)
        self._since = _Since()
        self._served = 0.0
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._distinct = 0
        self._ready_before = False
        self._disk_usage: float | None = None
        self._revision = 0
        self._reported_revision = -1

    # -- requests ----------------------------------------------------------------------------------------

    def admit(
        self,
        auth_data: AuthData,
        workload: float,
        limits: Limits,
        kind: Kind = Kind.REQUEST,
    ) -> RequestTracker:
        """Open an entry. If the limits do not allow it, record it as rejected and raise `LimitReached`.

        A session is held against the open sessions, a request against the requests in hand. Decided and
        counted in one step, so that a burst cannot slip past the limits together.
        """
        tracker = RequestTracker(auth_data, workload, self.clock, kind, self.end)
        with self._lock:
            if kind.is_recorded:
                self._count_distinct(tracker.request_idx)
            open_entries = self._open(tracker)
            load, entries = open_entries.load, len(open_entries.trackers)
            if limits.allow(load, entries):
                tracker.admitted = True
                open_entries.add(tracker)
                self._since.received += workload
            else:
                self._count_end(tracker, Outcome.REJECTED, None)
            self._received += 1
            self._revision += 1
        if not tracker.admitted:
            self._note_end(tracker, Outcome.REJECTED)
            raise LimitReached(load, entries)
        self._on_change()
        return tracker

    def end(self, tracker: RequestTracker, outcome: Outcome, work: float | None) -> bool:
        """Close a tracker's entry; False if it has an outcome already. work: as in `RequestTracker.end`."""
        with self._lock:
            if tracker.outcome is not None:
                return False
            self._open(tracker).remove(tracker)
            self._count_end(tracker, outcome, work)
            self._revision += 1
        self._note_end(tracker, outcome)
        return True

    def _open(self, tracker: RequestTracker) -> OpenEntries:
        return self._sessions if tracker.kind is Kind.SESSION else self._requests

    def _count_end(self, tracker: RequestTracker, outcome: Outcome, work: float | None) -> None:
        tracker.outcome = outcome
        self._ended[outcome] += 1
        if outcome is Outcome.REJECTED:
            done = 0.0
        elif work is None:
            done = tracker.workload if outcome is Outcome.SUCCESS else 0.0
        else:
            done = work
        tracker.work = done
        self._served += done
        self._since.served += done
        if outcome is Outcome.SUCCESS:
            # A refusal of the model server (4xx) is no work, but it was received.
            self._since.settled += done - tracker.workload if done else 0.0
        elif outcome is Outcome.CANCELLED:
            self._since.cancelled += tracker.workload - done
        elif outcome is Outcome.REJECTED:
            self._since.rejected += tracker.workload
            if tracker.admitted:  # it was counted as received, and is not this worker's after all
                self._since.received -= tracker.workload

    def _note_end(self, tracker: RequestTracker, outcome: Outcome) -> None:
        """Called outside the lock, as it writes to a file."""
        if tracker.kind.is_recorded:
            self._on_finished(tracker.record(outcome))
        self._on_change()

    def _count_distinct(self, request_idx: int) -> None:
        if request_idx in self._recent:
            self._recent.move_to_end(request_idx)
            return
        self._distinct += 1
        self._recent[request_idx] = None
        if len(self._recent) > _REMEMBERED_INDICES:
            self._recent.popitem(last=False)

    @property
    def served(self) -> float:
        """The workload done since the start."""
        with self._lock:
            return self._served

    def in_hand(self) -> tuple[float, int]:
        """The workload and the number of the requests that are queued or working."""
        with self._lock:
            return self._requests.load, len(self._requests.trackers)

    def busy_seconds(self) -> float:
        """For how long any request was in hand since the start."""
        with self._lock:
            return self._requests.busy_seconds

    def waiting(self) -> int:
        """The number of the requests that are queued."""
        with self._lock:
            return sum(not tracker.is_working for tracker in self._requests.trackers.values())

    @property
    def counts(self) -> Counts:
        """A consistent view of the counters."""
        with self._lock:
            received, ended = self._received, dict(self._ended)
        return Counts(
            received=received,
            served=ended[Outcome.SUCCESS],
            errored=ended[Outcome.ERROR],
            cancelled=ended[Outcome.CANCELLED],
            rejected=ended[Outcome.REJECTED],
            in_hand=received - sum(ended.values()),
        )

    # -- reports -----------------------------------------------------------------------------------------

    def model_ready(self) -> None:
        """The model can serve. The first call sets the load time of the next report."""
        with self._lock:
            if not self._ready_before:
                self._ready_before = True
                self._since.loadtime += max(self.clock.monotonic() - self._started_at, 1e-3)

    def touch(self) -> None:
        """Something in the report changed outside the ledger."""
        with self._lock:
            self._revision += 1
        self._on_change()

    @property
    def changed(self) -> bool:
        """Whether anything changed since the last accepted report."""
        with self._lock:
            return self._revision != self._reported_revision

    def snapshot(self, identity: Identity, model: ModelFigures, disk_usage: float) -> Snapshot:
        """A report of now, to be passed to `acknowledge` if it is accepted. disk_usage: GiB."""
        with self._lock:
            since, revision = dataclasses.replace(self._since), self._revision
            trackers = [*self._sessions.trackers.values(), *self._requests.trackers.values()]
            distinct, last_disk = self._distinct, self._disk_usage
            cur_load = self._sessions.load + self._requests.load
        indices = [tracker.request_idx for tracker in trackers if tracker.kind.is_recorded]
        report = StatusReport(
            id=identity.container_id,
            mtoken=identity.master_token,
            version=PROTOCOL_VERSION,
            loadtime=since.loadtime,
            new_load=max(since.new_load, 0.0),
            cur_load=max(cur_load, 0.0),
            rej_load=since.rejected,
            cur_perf=since.served,
            max_perf=model.max_perf,
            error_msg=model.error_msg,
            num_requests_working=len(indices),
            num_requests_recieved=distinct,
            working_request_idxs=indices,
            disk_usage=disk_usage,
            additional_disk_usage=0.0 if last_disk is None else disk_usage - last_disk,
            url=identity.url,
        )
        return Snapshot(report, since, disk_usage, revision)

    def acknowledge(self, snapshot: Snapshot) -> None:
        """The report was accepted: subtract its figures; what arrived meanwhile is in the next report."""
        with self._lock:
            sent = snapshot.since
            # Exactly 0 if nothing arrived meanwhile, so that rounding errors do not add up.
            self._since = _Since() if self._since == sent else self._since.minus(sent)
            # Estimates that an earlier report carried and that were too high: less than 0 cannot be sent.
            self._since.settled += min(max(sent.new_load, sent.settled), 0.0)
            self._disk_usage = snapshot.disk_usage
            self._reported_revision = snapshot.revision

    def __repr__(self) -> str:
        return f"<Ledger {self.counts}>"
