"""Counters of a running load test."""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from pyworker.loadtest.goal import Goal, bits
from pyworker.loadtest.histogram import Histogram
from pyworker.loadtest.objective import Objective
from pyworker.loadtest.record import Record

METRICS = (
    "total", "first_byte", "first_token", "gap", "per_token", "normalized", "routing", "waiting", "late",
)  # fmt: skip
"""Of successful requests, counted from the moment they were due; but `gap` is the time between two tokens,
`per_token` its mean in a response, `normalized` the latency for each token of a response,
`routing` and `waiting` are parts of the whole, `late` is the generator's own delay, of all requests."""

SHOWN_PERCENTS = (50.0, 90.0, 99.0)
RECENT_SECONDS = 60
NO_WORKER = 65_535

Talked = Literal["whole", "broken", "stopped"]
"""How a conversation ended: after all its turns, by a failure, or by the end of the test."""


@dataclass
class WorkerFigures:
    """Figures of one worker; `number` is its index in `workers`."""

    number: int
    requests: int = 0
    failed: int = 0
    total: Histogram = field(default_factory=Histogram)


@dataclass
class ErrorFigures:
    """Failures of one kind, and the first of them."""

    example: str
    count: int = 0
    statuses: Counter[int] = field(default_factory=Counter[int])


@dataclass
class Samples:
    """One entry for each request that has ended, in columns; times are seconds from the start.

    first_byte, first_token and per_token: seconds as in `Record`, nan if there was none. sent and received:
    bytes of bodies. missed: the bits of the goals that the request missed. turn: of a conversation, from 1,
    or 0. input_tokens: 0 if they are not known.
    """

    due: array[float] = field(default_factory=lambda: array("d"))
    started: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    worker: array[int] = field(default_factory=lambda: array("H"))
    good: array[int] = field(default_factory=lambda: array("B"))
    met: array[int] = field(default_factory=lambda: array("B"))
    missed: array[int] = field(default_factory=lambda: array("L"))
    tokens: array[int] = field(default_factory=lambda: array("L"))
    workload: array[float] = field(default_factory=lambda: array("d"))
    sent: array[int] = field(default_factory=lambda: array("Q"))
    received: array[int] = field(default_factory=lambda: array("Q"))
    first_byte: array[float] = field(default_factory=lambda: array("d"))
    first_token: array[float] = field(default_factory=lambda: array("d"))
    per_token: array[float] = field(default_factory=lambda: array("d"))
    turn: array[int] = field(default_factory=lambda: array("H"))
    input_tokens: array[int] = field(default_factory=lambda: array("L"))


@dataclass(frozen=True)
class Glimpse:
    """The figures of one moment, for the live view."""

    seconds: float
    sent: int
    succeeded: int
    failed: int
    in_flight: int
    sent_rate: float
    latencies: dict[float, float]
    late: float
    recent: tuple[int, ...]
    """Successes of each of the last seconds, oldest first."""
    errors: dict[str, int]
    workers: dict[str, tuple[int, int, float]]
    """Requests, failures and median latency by URL."""


class Measurement:
    """Counts requests as they start and end. Any thread may call any method; times are monotonic.

    The fields are read under `frozen`.
    """

    def __init__(self, objective: Objective, goals: Sequence[Goal] = ()) -> None:
        self.objective = objective
        self.goals = goals
        # Guards every field below.
        self._lock = threading.Lock()
        self.wall_begin = time.time()
        self.begin = self.end = self.last_start = time.monotonic()
        self.sent = 0
        self.succeeded = 0
        self.met = 0
        self.tokens = self.tokens_met = 0
        self.cancelled = 0
        self.received = 0
        self.workload = 0.0
        self.retried = 0
        self.histograms = {metric: Histogram() for metric in METRICS}
        self.errors: dict[str, ErrorFigures] = {}
        self.workers: dict[str, WorkerFigures] = {}
        self.samples = Samples()
        self.talks = 0
        self.talked_by: Counter[Talked] = Counter()
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT_SECONDS)  # second, successes

    def start(self) -> None:
        """The test begins now."""
        with self._lock:
            self.wall_begin = time.time()
            self.begin = self.end = self.last_start = time.monotonic()

    def started(self) -> None:
        with self._lock:
            self.sent += 1
            self.last_start = time.monotonic()

    def talking(self) -> None:
        """A conversation begins."""
        with self._lock:
            self.talks += 1

    def talked(self, how: Talked) -> None:
        """One has ended."""
        with self._lock:
            self.talked_by[how] += 1

    def ended(self, record: Record) -> None:
        met = self.objective.met_by(record)
        missed = bits(self.goals, record)
        with self._lock:
            self.end = max(self.end, record.ended)
            self.histograms["late"].add(record.late)
            self.retried += max(0, record.trace.attempts - 1)
            self.received += record.trace.received
            self.tokens += record.tokens
            if record.failure is None:
                self._add_success(record, met=met)
            else:
                self._add_failure(record)
            self._add_sample(record, self._add_to_worker(record), met=met, missed=missed)

    def _add_success(self, record: Record, *, met: bool) -> None:
        self.succeeded += 1
        self.met += met
        self.tokens_met += record.tokens if met else 0
        self.cancelled += record.cancelled
        self.workload += record.workload
        histograms = self.histograms
        histograms["total"].add(record.total)
        histograms["routing"].add(record.trace.routing)
        histograms["waiting"].add(record.trace.waiting)
        if record.first_byte is not None:
            histograms["first_byte"].add(record.first_byte)
        if record.first_token is not None:
            histograms["first_token"].add(record.first_token)
        for name, value in (("per_token", record.per_token), ("normalized", record.normalized)):
            if value is not None:
                histograms[name].add(value)
        for gap in record.gaps:
            histograms["gap"].add(gap)
        second = int(record.ended - self.begin)
        known = self._recent.pop()[1] if self._recent and self._recent[-1][0] >= second else 0
        self._recent.append((second, known + 1))

    def _add_failure(self, record: Record) -> None:
        assert record.failure is not None
        figures = self.errors.setdefault(record.failure.kind, ErrorFigures(record.failure.example))
        figures.count += 1
        if record.trace.status:
            figures.statuses[record.trace.status] += 1

    def _add_to_worker(self, record: Record) -> int:
        """The worker's number."""
        url = record.trace.worker
        number = NO_WORKER
        if url:
            figures = self.workers.get(url)
            if figures is None:
                figures = self.workers[url] = WorkerFigures(min(len(self.workers), NO_WORKER))
            number = figures.number
            figures.requests += 1
            if record.failure is None:
                figures.total.add(record.total)
            else:
                figures.failed += 1
        return number

    def _add_sample(self, record: Record, worker: int, *, met: bool, missed: int) -> None:
        samples = self.samples
        samples.due.append(record.due - self.begin)
        samples.started.append(record.started - self.begin)
        samples.ended.append(record.ended - self.begin)
        samples.worker.append(worker)
        samples.good.append(record.failure is None)
        samples.met.append(met)
        samples.missed.append(missed)
        samples.tokens.append(record.tokens)
        samples.workload.append(record.workload)
        samples.sent.append(record.trace.sent)
        samples.received.append(record.trace.received)
        samples.turn.append(record.turn)
        samples.input_tokens.append(record.input_tokens)
        for column, value in (
            (samples.first_byte, record.first_byte),
            (samples.first_token, record.first_token),
            (samples.per_token, record.per_token),
        ):
            column.append(math.nan if value is None else value)

    @contextmanager
    def frozen(self) -> Generator[float]:
        """Nothing is counted meanwhile. The end of the test: now, if requests are still open."""
        with self._lock:
            yield time.monotonic() if self.unfinished else self.end

    @property
    def failed(self) -> int:
        return sum(figures.count for figures in self.errors.values())

    @property
    def unfinished(self) -> int:
        return self.sent - self.succeeded - self.failed

    def glimpse(self) -> Glimpse:
        """The figures now; cheap enough for several calls a second in a long test."""
        with self._lock:
            now = time.monotonic() - self.begin
            sending = self.last_start - self.begin
            recent = dict(self._recent)
            first = max(0, int(now) - RECENT_SECONDS)
            return Glimpse(
                seconds=now,
                sent=self.sent,
                succeeded=self.succeeded,
                failed=self.failed,
                in_flight=self.unfinished,
                sent_rate=(self.sent - 1) / sending if sending > 0 else 0.0,
                latencies=self.histograms["total"].percentiles(SHOWN_PERCENTS),
                late=self.histograms["late"].largest,
                recent=tuple(recent.get(second, 0) for second in range(first, int(now))),
                errors={kind: figures.count for kind, figures in self.errors.items()},
                workers={
                    url: (figures.requests, figures.failed, figures.total.percentile(50.0))
                    for url, figures in self.workers.items()
                },
            )

    def __repr__(self) -> str:
        with self._lock:
            return f"<Measurement [{self.sent} sent, {self.succeeded} succeeded, {self.failed} failed]>"
