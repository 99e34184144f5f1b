"""The books of the local autoscaler, without HTTP and without a clock."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest

from pyworker.errors import Unprocessable
from pyworker.local.fleet import FRESH_SECONDS, KEPT_FINISHED, Fleet
from pyworker.local.messages import (
    FinishedBatch,
    FinishedRequest,
    RouteRequest,
    WorkerReport,
    parse,
)
from tests.support.status import status_report

NOW = 1000.0


def report(worker: int = 1, **changes: object) -> WorkerReport:
    fields = status_report(f"http://worker-{worker}:3000", id=worker, loadtime=0.0)
    return parse(WorkerReport, json.dumps(fields | changes).encode())


def accept(fleet: Fleet, report_: WorkerReport, now: float = NOW) -> None:
    fleet.accept_report(report_, dataclasses.asdict(report_), now)


def state(fleet: Fleet, now: float = NOW) -> str:
    return fleet.workers()[0].state(now)


def finished(index: int) -> FinishedRequest:
    return FinishedRequest(
        request_idx=index,
        success=True,
        status="Success",
        entered_queue_at=1.0,
        work_started_at=2.0,
        work_completed_at=3.0,
    )


def test_a_worker_is_ready_from_its_first_performance_until_it_is_silent() -> None:
    fleet = Fleet()
    accept(fleet, report(max_perf=0.0))
    assert state(fleet) == "loading"
    accept(fleet, report(loadtime=12.5))
    accept(fleet, report())
    assert state(fleet) == "ready"
    assert fleet.workers()[0].loadtime == 12.5
    assert state(fleet, NOW + FRESH_SECONDS) == "ready"
    assert state(fleet, NOW + FRESH_SECONDS + 0.1) == "stale"
    accept(fleet, report(), NOW + 60)
    assert state(fleet, NOW + 60) == "ready"


def test_an_error_lasts_until_a_report_without_one() -> None:
    fleet = Fleet()
    accept(fleet, report(error_msg="out of memory"))
    assert state(fleet) == "errored"
    assert fleet.route(1.0, 0, NOW).url is None
    accept(fleet, report())
    assert fleet.route(1.0, 0, NOW).url == "http://worker-1:3000"


def test_a_restarted_worker_loads_again() -> None:
    fleet = Fleet()
    accept(fleet, report(loadtime=12.5))
    accept(fleet, report(max_perf=0.0))
    assert state(fleet) == "loading"
    assert fleet.workers()[0].loadtime == 0.0


def test_waiting_says_why() -> None:
    fleet = Fleet()
    assert "no worker has reported" in fleet.route(1.0, 0, NOW).status
    accept(fleet, report(1, max_perf=0.0))
    accept(fleet, report(2, error_msg="broken"))
    assert "1 errored, 1 loading" in fleet.route(1.0, 0, NOW).status


def test_request_indices() -> None:
    fleet = Fleet()
    first = fleet.route(1.0, 0, NOW)
    assert fleet.route(1.0, 0, NOW).request_idx == first.request_idx + 1
    assert fleet.route(1.0, first.request_idx, NOW).request_idx == first.request_idx
    assert fleet.route(1.0, 999, NOW).request_idx == 3, "an index never given out gets a new one"
    assert fleet.requests_seen == 3


def test_the_least_loaded_worker_is_chosen_and_bursts_spread() -> None:
    fleet = Fleet()
    accept(fleet, report(1, cur_load=200.0))
    accept(fleet, report(2, cur_load=0.0))
    burst = [fleet.route(100.0, 0, NOW).url for _ in range(4)]
    assert burst.count("http://worker-2:3000") == 3
    assert burst[:2] == ["http://worker-2:3000"] * 2
    accept(fleet, report(2, cur_load=250.0))
    assert fleet.route(1.0, 0, NOW).url == "http://worker-2:3000", "a report replaces what was routed"


def test_requests_without_a_cost_take_turns() -> None:
    fleet = Fleet()
    accept(fleet, report(1))
    accept(fleet, report(2))
    assert len({fleet.route(0.0, 0, NOW).url for _ in range(2)}) == 2


def test_a_retry_prefers_another_worker() -> None:
    fleet = Fleet()
    accept(fleet, report(1))
    first = fleet.route(0.0, 0, NOW)
    assert fleet.route(0.0, first.request_idx, NOW).url == first.url, "there is no other"
    accept(fleet, report(2, cur_load=1000.0))
    assert fleet.route(0.0, first.request_idx, NOW).url == "http://worker-2:3000"


def test_request_numbers_rise() -> None:
    fleet = Fleet()
    accept(fleet, report())
    assert [fleet.route(0.0, 0, NOW).reqnum for _ in range(3)] == [1, 2, 3]


def test_finished_requests_are_counted_and_the_last_ones_kept() -> None:
    fleet = Fleet()
    for start in range(0, KEPT_FINISHED + 100, 100):
        batch = FinishedBatch(1, "", [finished(start + index) for index in range(100)])
        fleet.accept_finished(batch)
    assert fleet.finished_counts == {"Success": KEPT_FINISHED + 100}
    kept = fleet.finished
    assert (len(kept), kept[0].request_idx) == (KEPT_FINISHED, 100)


def test_the_number_of_workers_is_bounded() -> None:
    fleet = Fleet()
    template = report()
    for worker in range(1100):
        accept(fleet, dataclasses.replace(template, id=worker), NOW + worker / 1000)
    assert len(fleet.workers()) == 1000
    assert fleet.workers()[-1].report.id == 1099
    accept(fleet, dataclasses.replace(template, id=5000), NOW + 10_000)
    assert [member.report.id for member in fleet.workers()] == [5000], "the long silent ones are forgotten"


def test_waiting_for_a_condition() -> None:
    fleet = Fleet()
    assert not fleet.wait_for(lambda fleet: bool(fleet.reports), timeout=0.01)
    sender = threading.Thread(target=accept, args=(fleet, report()))
    sender.start()
    assert fleet.wait_for(lambda fleet: bool(fleet.reports), timeout=5)
    sender.join()


def test_many_threads() -> None:
    fleet = Fleet()
    accept(fleet, report(1))
    accept(fleet, report(2))
    indices: list[int] = []

    def ask() -> None:
        indices.extend(fleet.route(1.0, 0, NOW).request_idx for _ in range(200))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(indices) == list(range(1, 1601))
    assert [member.routed_load for member in fleet.workers()] == [800.0, 800.0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": "7"}, "id"),
        ({"loadtime": "1"}, "loadtime"),
        ({"cur_load": -1.0}, "cur_load"),
        ({"max_perf": float("nan")}, "max_perf"),
        ({"num_requests_working": 1.5}, "num_requests_working"),
        ({"num_requests_working": True}, "num_requests_working"),
        ({"working_request_idxs": ["1"]}, "working_request_idxs"),
        ({"url": "worker:3000"}, "url"),
        ({"error_msg": None}, "error_msg"),
    ],
)
def test_a_wrong_report_is_refused_by_name(change: dict[str, object], field: str) -> None:
    with pytest.raises(Unprocessable, match=field):
        report(1, **change)


def test_a_success_flag_that_contradicts_the_status_is_refused() -> None:
    record = dataclasses.asdict(finished(1)) | {"status": "Rejected"}
    body = {"worker_id": 1, "mtoken": "", "requests": [record]}
    with pytest.raises(Unprocessable, match=r"requests\.0: .*contradicts"):
        parse(FinishedBatch, json.dumps(body).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"endpoint": "x"}'])
def test_a_route_request_that_is_none(body: bytes) -> None:
    with pytest.raises(Unprocessable):
        parse(RouteRequest, body)


def test_an_older_route_request() -> None:
    asked = parse(RouteRequest, b'{"endpoint": "x", "api_key": "k", "cost": 100, "extra": 1}')
    assert (asked.cost, asked.request_idx) == (100.0, 0)


def test_repr() -> None:
    fleet = Fleet()
    assert repr(fleet) == "<Fleet [no workers, 0 requests, 0 finished]>"
