"""The books of a local autoscaler: its workers, request indices and finished requests.

No HTTP and no clock of its own: callers pass `now`, monotonic seconds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from pyworker.local.messages import FinishedBatch, FinishedRequest, WorkerReport

WorkerState = Literal["loading", "ready", "errored", "stale"]

FRESH_SECONDS = 20.0
"""A worker reports every 10 s at least; after two missed reports it counts as dead."""
FORGET_SECONDS = 600.0
MAX_WORKERS = 1_000
KEPT_REPORTS = 1_000
KEPT_FINISHED = 10_000
KEPT_REQUESTS = 10_000


@dataclass(frozen=True)
class Route:
    """The response to a client: a worker's URL, or, if `url` is None, why it has to wait."""

    request_idx: int
    reqnum: int
    url: str | None
    status: str


@dataclass
class Member:
    """A worker. Times are monotonic seconds."""

    report: WorkerReport
    first_seen: float
    last_seen: float
    # A worker reports its load time once; it is remembered here until the worker loads again.
    loadtime: float = 0.0
    # Workload sent there since its last report, so that a burst spreads before reports catch up.
    routed_load: float = 0.0
    last_pick: int = 0

    def state(self, now: float) -> WorkerState:
        if now - self.last_seen > FRESH_SECONDS:
            return "stale"
        if self.report.error_msg:
            return "errored"
        # The load time alone will not do: an autoscaler started later than its workers never sees it.
        return "ready" if self.report.max_perf > 0 else "loading"

    def take(self, report: WorkerReport, now: float) -> None:
        if report.loadtime > 0:
            self.loadtime = report.loadtime
        elif report.max_perf == 0:
            self.loadtime = 0.0
        self.report = report
        self.last_seen = now
        self.routed_load = 0.0

    def preference(self) -> tuple[float, int]:
        """Lowest is routed to: least loaded first, then the one that was chosen longest ago."""
        return (self.report.cur_load + self.routed_load, self.last_pick)

    def overview(self, now: float) -> dict[str, object]:
        """As JSON for people."""
        report = asdict(self.report)
        del report["mtoken"]
        return {
            "state": self.state(now),
            "seconds_since_report": round(now - self.last_seen, 1),
            "routed_since_report": self.routed_load,
            **report,
            "loadtime": self.loadtime,
        }

    def sdk_view(self, now: float) -> dict[str, object]:
        """With the field names of the client library; its times are epoch seconds."""
        report = self.report
        started = time.time() - (now - self.first_seen)
        return {
            "id": report.id,
            "status": self.state(now),
            "cur_load": report.cur_load,
            "new_load": report.new_load,
            "cur_load_rolling_avg": report.cur_load,
            "cur_perf": report.cur_perf,
            "perf": report.max_perf,
            "measured_perf": report.max_perf,
            "dlperf": 0.0,
            "reliability": 1.0,
            "reqs_working": report.num_requests_working,
            "disk_usage": report.disk_usage,
            "loaded_at": min(started + self.loadtime, time.time()) if self.loadtime else 0.0,
            "started_at": started,
        }


@dataclass(frozen=True)
class _Sent:
    """Where a request was sent, as what workload, and which report of that worker was the last then."""

    worker: int
    cost: float
    report_seen: float


class Fleet:
    """Everything a local autoscaler remembers. Any thread may call any method."""

    def __init__(self) -> None:
        # Guards every field below. Notified of each accepted report and batch.
        self._changed = threading.Condition()
        self._members: dict[int, Member] = {}
        # By request_idx, the last worker it was sent to.
        self._requests: OrderedDict[int, _Sent] = OrderedDict()
        self._last_request_idx = 0
        self._last_reqnum = 0
        self._reports: deque[Mapping[str, object]] = deque(maxlen=KEPT_REPORTS)
        self._finished: deque[FinishedRequest] = deque(maxlen=KEPT_FINISHED)
        self._finished_counts: Counter[str] = Counter()
        self._changes = 0

    def accept_report(self, report: WorkerReport, raw: Mapping[str, object], now: float) -> None:
        """Take over a worker's status. `raw` is the report as it came, for tests to look at."""
        with self._changed:
            member = self._members.get(report.id)
            if member is None:
                self._make_room(now)
                member = self._members[report.id] = Member(report, first_seen=now, last_seen=now)
            member.take(report, now)
            self._reports.append(raw)
            self._notify()

    def accept_finished(self, batch: FinishedBatch) -> None:
        with self._changed:
            self._finished.extend(batch.requests)
            self._finished_counts.update(request.status for request in batch.requests)
            self._notify()

    def route(self, cost: float, request_idx: int, now: float) -> Route:
        """Choose a worker, or say why none can be chosen.

        An index of zero, or one that was never given out, gets a new one. A request that comes again
        has failed at its worker, so another ready one is preferred.
        """
        with self._changed:
            index = self._index(request_idx)
            ready = [(key, member) for key, member in self._members.items() if member.state(now) == "ready"]
            if not ready:
                return Route(index, 0, None, self._why_waiting(now))
            failed = self._take_back(index)
            others = [(key, member) for key, member in ready if key != failed]
            key, member = min(others or ready, key=lambda entry: entry[1].preference())
            self._last_reqnum += 1
            member.routed_load += cost
            member.last_pick = self._last_reqnum
            self._remember(index, _Sent(key, cost, member.last_seen))
            return Route(index, self._last_reqnum, member.report.url, "ready")

    def workers(self) -> list[Member]:
        """Copies, by id."""
        with self._changed:
            return [replace(member) for _, member in sorted(self._members.items())]

    @property
    def reports(self) -> list[Mapping[str, object]]:
        """The latest accepted status reports as they came, oldest first."""
        with self._changed:
            return list(self._reports)

    @property
    def finished(self) -> list[FinishedRequest]:
        """The latest finished requests, oldest first."""
        with self._changed:
            return list(self._finished)

    @property
    def finished_counts(self) -> dict[str, int]:
        """How many requests ended with which status since the start."""
        with self._changed:
            return dict(self._finished_counts)

    @property
    def requests_seen(self) -> int:
        """How many request indices were given out."""
        with self._changed:
            return self._last_request_idx

    @property
    def routes_given(self) -> int:
        """How often a client was sent to a worker."""
        with self._changed:
            return self._last_reqnum

    def wait_for(self, condition: Callable[[Fleet], bool], timeout: float) -> bool:
        """Wait until `condition` holds after some report or batch; False after `timeout` seconds.

        The condition is called without the lock, so it may use every method here.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                seen = self._changes
            if condition(self):
                return True
            with self._changed:
                left = deadline - time.monotonic()
                if not self._changed.wait_for(lambda seen=seen: self._changes != seen, max(0.0, left)):
                    return False

    def _notify(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def _index(self, request_idx: int) -> int:
        if 0 < request_idx <= self._last_request_idx:
            return request_idx
        self._last_request_idx += 1
        return self._last_request_idx

    def _take_back(self, index: int) -> int | None:
        """The worker that this request was sent to before; it is not counted there any more."""
        sent = self._requests.get(index)
        if sent is None:
            return None
        member = self._members.get(sent.worker)
        if member is not None and member.last_seen == sent.report_seen:
            member.routed_load = max(0.0, member.routed_load - sent.cost)
        return sent.worker

    def _remember(self, index: int, sent: _Sent) -> None:
        self._requests[index] = sent
        self._requests.move_to_end(index)
        if len(self._requests) > KEPT_REQUESTS:
            self._requests.popitem(last=False)

    def _make_room(self, now: float) -> None:
        gone = [key for key, member in self._members.items() if now - member.last_seen > FORGET_SECONDS]
        for key in gone:
            del self._members[key]
        if len(self._members) >= MAX_WORKERS:
            del self._members[min(self._members, key=lambda key: self._members[key].last_seen)]

    def _states(self, now: float) -> str:
        states = Counter(member.state(now) for member in self._members.values())
        return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no workers"

    def _why_waiting(self, now: float) -> str:
        if not self._members:
            return "waiting: no worker has reported yet"
        return f"waiting: no worker is ready ({self._states(now)})"

    def __repr__(self) -> str:
        with self._changed:
            states = self._states(time.monotonic())
            return f"<Fleet [{states}, {self._last_request_idx} requests, {len(self._finished)} finished]>"
