"""The ledger: nothing is lost, nothing counted twice, whatever happens to the reports."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyworker.data_types import AuthData
from pyworker.errors import LimitReached
from pyworker.reporting.figures import Counts, Limits
from pyworker.reporting.journal import Journal
from pyworker.reporting.ledger import Ledger, Snapshot
from pyworker.reporting.tracker import Clock, Kind, RequestTracker
from pyworker.reporting.wire import FinishedRequest, Identity, ModelFigures, Outcome, StatusReport

DEADLINE = 60  # seconds; only a failing test waits so long
IDENTITY = Identity(17, "s3cret", "http://203.0.113.7:40123")
FIGURES = ModelFigures(50.0, "")
ENDS = (Outcome.SUCCESS, Outcome.ERROR, Outcome.CANCELLED)


class FakeClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.monotonic = 100.0
        self.wall = 1_700_000_000.0

    def clock(self) -> Clock:
        return Clock(lambda: self.monotonic, lambda: self.wall)

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


def auth(request_idx: int | None = 1, reqnum: int = 0) -> AuthData:
    return AuthData("s", "http://a:1", "e", 1, reqnum, request_idx)


def report_of(ledger: Ledger) -> StatusReport:
    return ledger.snapshot(IDENTITY, FIGURES, 10.0).report


def reject(ledger: Ledger, request_idx: int, workload: float) -> None:
    with pytest.raises(LimitReached):
        ledger.admit(auth(request_idx), workload, Limits(0))


# -- any order of events ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """What the model remembers of one change; sums over a range of them are what a report must say."""

    received: float = 0.0
    cancelled: float = 0.0
    rejected: float = 0.0
    served: float = 0.0
    settled: float = 0.0
    loadtime: float = 0.0


class LedgerMachine(RuleBasedStateMachine):
    """The ledger against a list of events. Workloads are quarters, so that sums are exact."""

    #: Whose ledger: a mutant's in tests/proxy/test_mutations.py.
    ledger_class: ClassVar[type[Ledger]] = Ledger

    def __init__(self) -> None:
        super().__init__()
        self.time = FakeClock()
        self.changes = 0
        self.journal = Journal()
        self.ledger = self.ledger_class(self.journal.append, self.time.clock(), on_change=self._count_change)
        self.in_hand: list[RequestTracker] = []
        self.events: list[Event] = []
        self.accepted_up_to = 0
        # At most 0: estimates in accepted reports that were too high, not yet made up for; and what will be
        # left of that once the report on its way is accepted.
        self.overestimated = self.left_over = 0.0
        self.on_its_way: tuple[Snapshot, int, int] | None = None
        self.accepted: list[StatusReport] = []
        self.counts: Counter[str] = Counter()
        self.distinct: set[int] = set()
        self.expected_changes = 0
        self.reported_changes = -1
        self.finished: list[tuple[int, str, bool]] = []
        self.delivered: list[FinishedRequest] = []
        self.ready_at: float | None = None

    def _count_change(self) -> None:
        self.changes += 1

    @initialize(seconds=st.floats(0, 1000))
    def load_for_a_while(self, seconds: float) -> None:
        self.time.advance(seconds)

    @rule(
        request_idx=st.integers(0, 30), quarters=st.integers(0, 4_000_000), kind=st.sampled_from(list(Kind))
    )
    def admit(self, request_idx: int, quarters: int, kind: Kind) -> None:
        workload = quarters / 4
        is_session = kind is Kind.SESSION
        like_it = [tracker for tracker in self.in_hand if (tracker.kind is Kind.SESSION) == is_session]
        load = sum(tracker.workload for tracker in like_it)

        # What is in hand, without this request, is just within the limits.
        limits = Limits(len(like_it) + 1, load)
        tracker = self.ledger.admit(auth(request_idx), workload, limits, kind)
        self.in_hand.append(tracker)
        self._received(request_idx, counted=kind.is_recorded)
        self.events.append(Event(received=workload))

    @rule(request_idx=st.integers(0, 30), quarters=st.integers(0, 4_000_000))
    def reject(self, request_idx: int, quarters: int) -> None:
        requests = [tracker for tracker in self.in_hand if tracker.kind is not Kind.SESSION]
        load = sum(tracker.workload for tracker in requests)
        too_low = Limits(len(requests)) if quarters % 2 else Limits(len(requests) + 1, load - 0.25)

        try:
            self.ledger.admit(auth(request_idx), quarters / 4, too_low)
        except LimitReached as reached:
            refusal = reached
        else:
            raise AssertionError("admitted above the limit")
        assert (refusal.load, refusal.entries) == (load, len(requests))
        self._received(request_idx)
        self.counts["rejected"] += 1
        self.finished.append((request_idx, "Rejected", False))
        self.events.append(Event(rejected=quarters / 4))

    def _received(self, request_idx: int, *, counted: bool = True) -> None:
        self.counts["received"] += 1
        if counted:
            self.distinct.add(request_idx)
        self.expected_changes += 1

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)))
    def end(self, data: st.DataObject, outcome: Outcome) -> None:
        tracker = self.in_hand.pop(data.draw(st.integers(0, len(self.in_hand) - 1)))
        if data.draw(st.booleans()):
            tracker.start_work()
        measured = data.draw(st.none() | st.integers(0, 40))
        work = None if measured is None else measured / 4
        assert tracker.end(outcome, work=work)
        assert not tracker.end(Outcome.ERROR), "only the first outcome counts"
        assert not tracker.end(Outcome.CANCELLED, work=1.0)
        estimated = tracker.workload if outcome is Outcome.SUCCESS else 0.0
        done = 0.0 if outcome is Outcome.REJECTED else estimated if work is None else work
        names = {"Success": "served", "Error": "errored", "Cancelled": "cancelled", "Rejected": "rejected"}
        self.counts[names[outcome.value]] += 1
        self.expected_changes += 1
        self._finished(tracker, outcome)
        turned_away = tracker.workload if outcome is Outcome.REJECTED else 0.0
        self.events.append(
            Event(
                received=-turned_away,
                rejected=turned_away,
                cancelled=tracker.workload - done if outcome is Outcome.CANCELLED else 0.0,
                served=done,
                settled=done - tracker.workload if outcome is Outcome.SUCCESS and done else 0.0,
            )
        )

    @precondition(lambda self: self.in_hand and self.on_its_way is None)
    @rule()
    def settle_what_was_reported(self) -> None:
        """An estimate that an accepted report carried turns out to be too high before anything else comes."""
        self.send("", 0)
        self.accept()
        tracker = self.in_hand.pop()
        assert tracker.end(Outcome.SUCCESS, work=0.25)
        self.counts["served"] += 1
        self.expected_changes += 1
        self._finished(tracker, Outcome.SUCCESS)
        self.events.append(Event(served=0.25, settled=0.25 - tracker.workload))
        self.send("", 0)
        self.accept()

    def _finished(self, tracker: RequestTracker, outcome: Outcome) -> None:
        if tracker.kind.is_recorded:
            success = outcome in (Outcome.SUCCESS, Outcome.CANCELLED)
            self.finished.append((tracker.request_idx, outcome.value, success))

    @rule()
    def model_ready(self) -> None:
        self.ledger.model_ready()
        if self.ready_at is None:
            self.ready_at = self.time.monotonic
            self.events.append(Event(loadtime=max(self.ready_at - 100.0, 1e-3)))

    @rule()
    def touch(self) -> None:
        self.ledger.touch()
        self.expected_changes += 1

    @rule(seconds=st.floats(0, 100), jump=st.sampled_from([0.0, 3600.0, -3600.0]))
    def let_time_pass(self, seconds: float, jump: float) -> None:
        self.time.advance(seconds)
        self.time.wall += jump

    @precondition(lambda self: self.on_its_way is None)
    @rule(error=st.sampled_from(["", "out of memory"]), disk=st.integers(0, 1000))
    def send(self, error: str, disk: int) -> None:
        snapshot = self.ledger.snapshot(IDENTITY, ModelFigures(80.0, error), disk / 4)
        report = snapshot.report
        carried = self.events[self.accepted_up_to :]
        settled = self.overestimated + sum(event.settled for event in carried)
        net = sum(event.received - event.cancelled for event in carried) + settled
        assert report.new_load == max(net, 0.0)
        self.left_over = min(max(net, settled), 0.0)
        assert report.rej_load == sum(event.rejected for event in carried)
        assert report.cur_perf == sum(event.served for event in carried)
        assert report.loadtime == sum(event.loadtime for event in carried)
        assert report.cur_load == sum(tracker.workload for tracker in self.in_hand)
        counted = [tracker.request_idx for tracker in self.in_hand if tracker.kind.is_recorded]
        assert report.num_requests_working == len(counted)
        assert sorted(report.working_request_idxs) == sorted(counted)
        assert report.num_requests_recieved == len(self.distinct)
        last_disk = self.accepted[-1].disk_usage if self.accepted else disk / 4
        assert (report.disk_usage, report.additional_disk_usage) == (disk / 4, disk / 4 - last_disk)
        assert (report.max_perf, report.error_msg) == (80.0, error)
        self.on_its_way = (snapshot, len(self.events), self.expected_changes)

    @precondition(lambda self: self.on_its_way is not None)
    @rule()
    def accept(self) -> None:
        assert self.on_its_way is not None
        snapshot, carried, changes = self.on_its_way
        self.ledger.acknowledge(snapshot)
        self.accepted.append(snapshot.report)
        self.accepted_up_to, self.reported_changes, self.on_its_way = carried, changes, None
        self.overestimated = self.left_over

    @precondition(lambda self: self.on_its_way is not None)
    @rule()
    def lose(self) -> None:
        self.on_its_way = None

    @rule(limit=st.integers(1, 5), accepted=st.booleans())
    def deliver_finished(self, limit: int, accepted: bool) -> None:
        batch = self.journal.oldest(limit)
        waiting = len(self.finished) - len(self.delivered)
        assert len(batch) == min(limit, waiting)
        if accepted:
            self.journal.drop(len(batch))
            self.delivered.extend(batch)

    @invariant()
    def every_request_is_accounted_for(self) -> None:
        counts = self.ledger.counts
        assert counts == Counts(**self.counts, in_hand=len(self.in_hand))
        ended = counts.served + counts.errored + counts.cancelled + counts.rejected
        assert counts.received == ended + counts.in_hand
        assert self.ledger.served == sum(event.served for event in self.events)
        assert self.changes == self.expected_changes
        assert self.ledger.changed == (self.expected_changes != self.reported_changes)
        told = [(record.request_idx, record.status, record.success) for record in self.delivered]
        assert told == self.finished[: len(told)], "each once, in the order in which they ended"

    def teardown(self) -> None:
        """End everything and report it: the sums over accepted reports are the totals."""
        for tracker in self.in_hand:
            tracker.end(Outcome.CANCELLED)
            self.events.append(Event(cancelled=tracker.workload))
            self._finished(tracker, Outcome.CANCELLED)
        last = self.ledger.snapshot(IDENTITY, FIGURES, 0.0)
        self.ledger.acknowledge(last)
        accepted = [*self.accepted, last.report]
        assert sum(report.cur_perf for report in accepted) == sum(event.served for event in self.events)
        assert sum(report.rej_load for report in accepted) == sum(event.rejected for event in self.events)
        with_loadtime = [report.loadtime for report in accepted if report.loadtime]
        assert with_loadtime == [event.loadtime for event in self.events if event.loadtime]
        assert len(with_loadtime) == (self.ready_at is not None)
        assert last.report.cur_load == 0.0
        self.delivered.extend(self.journal.oldest(10**6))
        told = [(record.request_idx, record.status, record.success) for record in self.delivered]
        assert told == self.finished
        nothing = report_of(self.ledger)
        assert (nothing.new_load, nothing.rej_load, nothing.cur_perf, nothing.loadtime) == (0, 0, 0, 0)
        assert not self.ledger.changed


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# -- threads ---------------------------------------------------------------------------------------------


def test_nothing_is_lost_between_threads() -> None:
    """Eight threads of requests, one that reports and loses every third report."""
    journal = Journal()
    ledger = Ledger(journal.append)
    start = threading.Barrier(9)
    done = threading.Event()
    reports: list[StatusReport] = []
    delivered: list[FinishedRequest] = []

    def work(seed: int) -> dict[Outcome, float]:
        chance = random.Random(seed)
        sums = dict.fromkeys(Outcome, 0.0)
        start.wait(DEADLINE)
        for number in range(300):
            workload = chance.randrange(1000) / 4
            outcome = chance.choice(list(Outcome))
            sums[outcome] += workload
            try:
                tracker = ledger.admit(
                    auth(seed * 1000 + number), workload, Limits(0 if outcome is Outcome.REJECTED else None)
                )
            except LimitReached:
                continue
            tracker.start_work()
            tracker.end(outcome)
            tracker.close()
        return sums

    def report(last: bool, lost: bool) -> None:
        snapshot = ledger.snapshot(IDENTITY, FIGURES, 1.0)
        counts = ledger.counts
        ended = counts.served + counts.errored + counts.cancelled + counts.rejected
        assert counts.received == ended + counts.in_hand
        if not lost:
            ledger.acknowledge(snapshot)
            reports.append(snapshot.report)
            batch = journal.oldest(10**9 if last else 7)
            journal.drop(len(batch))
            delivered.extend(batch)

    def keep_reporting() -> None:
        start.wait(DEADLINE)
        number = 0
        while not done.is_set():
            number += 1
            report(last=False, lost=number % 3 == 0)
        report(last=True, lost=False)

    with ThreadPoolExecutor(9) as pool:
        reporting = pool.submit(keep_reporting)
        try:
            sums = [future.result(DEADLINE) for future in [pool.submit(work, seed) for seed in range(8)]]
        finally:
            done.set()
        reporting.result(DEADLINE)

    total = {outcome: sum(each[outcome] for each in sums) for outcome in Outcome}
    assert sum(report.cur_perf for report in reports) == total[Outcome.SUCCESS]
    assert sum(report.rej_load for report in reports) == total[Outcome.REJECTED]
    # Clipped at 0 in each report: never less than what came in and was not given up.
    net = total[Outcome.SUCCESS] + total[Outcome.ERROR]
    assert net <= sum(report.new_load for report in reports) <= net + total[Outcome.CANCELLED]
    assert ledger.counts.received == 2400
    assert ledger.counts.in_hand == 0
    assert reports[-1].num_requests_recieved == 2400
    assert reports[-1].cur_load == 0.0
    assert sorted(record.request_idx for record in delivered) == sorted(
        seed * 1000 + number for seed in range(8) for number in range(300)
    )
    assert not ledger.changed


def test_one_of_many_threads_gives_the_outcome() -> None:
    ledger = Ledger(Journal().append)
    for number in range(50):
        tracker = ledger.admit(auth(number), 1.0, Limits())
        barrier = threading.Barrier(8)

        def race(tracker: RequestTracker = tracker, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait(DEADLINE)
            return tracker.end(Outcome.ERROR)

        with ThreadPoolExecutor(8) as pool:
            won = [future.result(DEADLINE) for future in [pool.submit(race) for _ in range(8)]]
        assert sum(won) == 1

    assert ledger.counts == Counts(received=50, errored=50)


def test_a_burst_cannot_slip_past_the_limit_together() -> None:
    ledger = Ledger(Journal().append)
    barrier = threading.Barrier(16)

    def arrive(number: int) -> bool:
        barrier.wait(DEADLINE)
        try:
            ledger.admit(auth(number), 1.0, Limits(4))
        except LimitReached:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        admitted = [
            future.result(DEADLINE) for future in [pool.submit(arrive, number) for number in range(16)]
        ]

    assert sum(admitted) == 4
    assert ledger.counts == Counts(received=16, rejected=12, in_hand=4)


def test_the_callback_runs_outside_the_lock() -> None:
    seen: list[int] = []

    def look_from_another_thread() -> None:
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(report_of, ledger).result(DEADLINE).num_requests_working)

    ledger = Ledger(Journal().append, on_change=look_from_another_thread)
    tracker = ledger.admit(auth(), 1.0, Limits())
    tracker.close()
    reject(ledger, 2, 1.0)
    ledger.touch()

    assert seen == [1, 0, 0, 0]


# -- time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [0.0, 3600.0, -3600.0])
def test_a_jump_of_the_wall_clock_changes_no_interval(jump: float) -> None:
    time = FakeClock()
    journal = Journal()
    ledger = Ledger(journal.append, time.clock())
    tracker = ledger.admit(auth(5), 1.0, Limits())
    entered = time.wall
    time.wall += jump
    time.advance(2)
    tracker.start_work()
    time.wall += jump
    time.advance(3)
    tracker.end(Outcome.SUCCESS)

    assert journal.oldest(10) == [FinishedRequest(5, True, "Success", entered, entered + 2, entered + 5)]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_of_the_wall_clock_changes_no_load_time(jump: float) -> None:
    time = FakeClock()
    ledger = Ledger(Journal().append, time.clock())
    time.advance(42)
    time.wall += jump
    ledger.model_ready()

    assert report_of(ledger).loadtime == 42.0


def test_a_model_that_is_ready_at_once_has_a_load_time_all_the_same() -> None:
    time = FakeClock()
    ledger = Ledger(Journal().append, time.clock())
    ledger.model_ready()

    assert report_of(ledger).loadtime > 0


@pytest.mark.parametrize(
    ("outcome", "started", "success", "times"),
    [
        (Outcome.SUCCESS, True, True, (0, 1, 3)),
        (Outcome.ERROR, True, False, (0, 1, 3)),
        (Outcome.ERROR, False, False, (0, None, 3)),
        (Outcome.CANCELLED, True, True, (0, 1, None)),
        (Outcome.CANCELLED, False, True, (0, None, None)),
    ],
)
def test_a_finished_request_says_what_it_reached(
    outcome: Outcome, started: bool, success: bool, times: Sequence[int | None]
) -> None:
    time = FakeClock()
    journal = Journal()
    ledger = Ledger(journal.append, time.clock())
    entered = time.wall
    tracker = ledger.admit(auth(9), 1.0, Limits())
    time.advance(1)
    if started:
        tracker.start_work()
    time.advance(2)
    tracker.end(outcome)

    told = [0.0 if moment is None else entered + moment for moment in times]
    assert journal.oldest(1) == [FinishedRequest(9, success, outcome.value, told[0], told[1], told[2])]


def test_a_rejected_request_is_finished_at_once() -> None:
    time = FakeClock()
    journal = Journal()
    ledger = Ledger(journal.append, time.clock())
    reject(ledger, 4, 5.0)

    assert journal.oldest(1) == [FinishedRequest(4, False, "Rejected", time.wall, 0.0, 0.0)]


# -- what goes on the wire -------------------------------------------------------------------------------


def test_the_status_report_has_exactly_the_fields_of_the_contract() -> None:
    ledger = Ledger(Journal().append)
    ledger.admit(auth(7), 12.5, Limits())

    wire = dataclasses.asdict(ledger.snapshot(IDENTITY, ModelFigures(50.0, "no"), 3.25).report)

    assert wire == {
        "id": 17,
        "mtoken": "s3cret",
        "version": "1.1.0",
        "loadtime": 0.0,
        "new_load": 12.5,
        "cur_load": 12.5,
        "rej_load": 0.0,
        "cur_perf": 0.0,
        "max_perf": 50.0,
        "error_msg": "no",
        "num_requests_working": 1,
        "num_requests_recieved": 1,
        "working_request_idxs": [7],
        "disk_usage": 3.25,
        "additional_disk_usage": 0.0,
        "cur_capacity": 0,
        "max_capacity": 0,
        "url": "http://203.0.113.7:40123",
    }
    for name in ("loadtime", "new_load", "cur_load", "rej_load", "cur_perf", "max_perf", "disk_usage"):
        assert type(wire[name]) is float, name
    assert json.loads(json.dumps(wire, allow_nan=False)) == wire


def test_a_finished_request_has_exactly_the_fields_of_the_contract() -> None:
    journal = Journal()
    ledger = Ledger(journal.append)
    ledger.admit(auth(7), 1.0, Limits()).close()

    [record] = journal.oldest(5)

    assert list(record._asdict()) == [
        "request_idx",
        "success",
        "status",
        "entered_queue_at",
        "work_started_at",
        "work_completed_at",
    ]
    assert [outcome.value for outcome in Outcome] == ["Success", "Error", "Cancelled", "Rejected"]


def test_the_first_form_is_known_by_its_reqnum() -> None:
    ledger = Ledger(Journal().append)
    tracker = ledger.admit(auth(None, reqnum=33), 1.0, Limits())

    assert tracker.request_idx == 33
    assert report_of(ledger).working_request_idxs == [33]


def test_a_retry_of_a_request_is_received_once() -> None:
    ledger = Ledger(Journal().append)
    for request_idx in (1, 2, 1, 1, 3):
        ledger.admit(auth(request_idx), 1.0, Limits()).close()

    assert report_of(ledger).num_requests_recieved == 3
    assert ledger.counts.received == 5


def test_what_tells_retries_from_requests_stays_small() -> None:
    journal = Journal()
    ledger = Ledger(journal.append)

    def receive(indices: range) -> None:
        for request_idx in indices:
            ledger.admit(auth(request_idx), 1.0, Limits()).close()
            journal.drop(1)

    receive(range(20_000))
    before = sys.getallocatedblocks()
    receive(range(20_000, 40_000))

    # An index that is remembered takes some four blocks of memory.
    assert sys.getallocatedblocks() - before < 5_000
    assert report_of(ledger).num_requests_recieved == 40_000


def test_the_load_in_hand_is_exact_again_when_idle() -> None:
    ledger = Ledger(Journal().append)
    trackers = [ledger.admit(auth(number), 0.1 * number, Limits()) for number in range(50)]
    for tracker in reversed(trackers):
        tracker.end(Outcome.SUCCESS)

    assert report_of(ledger).cur_load == 0.0


def test_a_refusal_opens_no_entry() -> None:
    ledger = Ledger(Journal().append)

    reject(ledger, 7, 5.0)

    assert ledger.counts == Counts(received=1, rejected=1)
    assert report_of(ledger).working_request_idxs == []
    assert report_of(ledger).new_load == 0.0
    ledger.admit(auth(), 1.0, Limits()).close()  # the lock is free


def test_no_secret_in_a_repr() -> None:
    ledger = Ledger(Journal().append)
    tracker = ledger.admit(auth(8), 2.5, Limits())
    snapshot = ledger.snapshot(IDENTITY, FIGURES, 1.0)

    assert "s3cret" not in repr(snapshot) + repr(IDENTITY) + repr(snapshot.report)
    assert repr(tracker) == "<RequestTracker request 8 queued workload=2.5>"
    tracker.start_work()
    assert repr(tracker) == "<RequestTracker request 8 working workload=2.5>"
    tracker.close()
    assert repr(tracker) == "<RequestTracker request 8 Cancelled workload=2.5>"
    assert repr(ledger) == f"<Ledger {Counts(received=1, cancelled=1)}>"
