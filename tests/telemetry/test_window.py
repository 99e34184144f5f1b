"""The last minute, and who is told of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyworker.telemetry.metrics import Metrics
from pyworker.telemetry.record import REFUSED, RequestRecord
from pyworker.telemetry.recorder import REMEMBERED, Recorder
from pyworker.telemetry.stopwatch import Stopwatch
from pyworker.telemetry.window import Window

NOW = 1_800_000_000.0


def record(
    ended_at: float = NOW, total: float = 1.0, outcome: str = "Success", **others: Any
) -> RequestRecord:
    fields: dict[str, Any] = {
        "request_id": "a-1",
        "request_idx": 1,
        "route": "/generate",
        "status": 200,
        "reason": "",
        "authentication": 0.1,
        "queued": 0.2,
        "first_byte": 0.3,
        "workload": 100.0,
        "work": 40.0,
        **others,
    }
    return RequestRecord(ended_at=ended_at, total=total, outcome=outcome, **fields)


def test_rates_and_percentiles_are_those_of_the_last_minute() -> None:
    window = Window(lambda: NOW)
    window.take([record(NOW - 70)] * 5)
    window.take([record(NOW - 30, total=number / 100) for number in range(1, 101)])
    window.take([record(NOW, outcome=REFUSED, status=429)] * 3 + [record(NOW, outcome="Error", work=None)])
    summary = window.summary()
    assert summary["outcomes"] == {"Success": 100, "Error": 1}
    assert summary["refused_by_status"] == {"429": 3}
    assert summary["requests_per_second"] == round(101 / 60, 3)
    assert summary["workload_per_second"] == round(4000 / 60, 3)
    assert summary["latency_seconds"] == {"p50": 0.51, "p90": 0.91, "p99": 1.0}
    assert summary["first_byte_seconds"] == {"p50": 0.6, "p90": 0.6, "p99": 0.6}


def test_a_minute_without_requests() -> None:
    summary = Window(lambda: NOW).summary()
    assert (summary["outcomes"], summary["latency_seconds"], summary["requests_per_second"]) == ({}, {}, 0.0)


def test_a_clock_that_is_set_back_stands_still() -> None:
    window = Window(lambda: NOW)
    window.take([record(NOW), record(NOW - 50)])
    assert window.summary()["outcomes"] == {"Success": 2}


def test_its_memory_is_bounded() -> None:
    window = Window(lambda: NOW)
    window.take([record()] * 10_000)
    second = window._seconds[0]  # pyright: ignore[reportPrivateUsage]
    assert len(second.totals) <= 200
    assert window.summary()["outcomes"] == {"Success": 10_000}


def test_each_record_is_told_once_in_order() -> None:
    recorder = Recorder(lambda: NOW)
    told: list[RequestRecord] = []
    calls: list[int] = []

    def take(records: Sequence[RequestRecord]) -> None:
        told.extend(records)
        calls.append(len(records))

    recorder.tell(take)
    recorder.flush()
    for number in range(5):
        recorder.ended(record(total=float(number)))
    recorder.refused(record(outcome=REFUSED))
    recorder.flush()
    recorder.flush()
    assert [one.total for one in told[:5]] == [0, 1, 2, 3, 4]
    assert calls == [6]


def test_many_that_were_refused_do_not_displace_those_that_ended() -> None:
    recorder = Recorder(lambda: NOW)
    recorder.ended(record())
    for _ in range(2 * REMEMBERED):
        recorder.refused(record(outcome=REFUSED))
    assert len(list(recorder.recent())) == 1
    assert len(list(recorder.recently_refused())) == REMEMBERED


def test_the_metrics_count() -> None:
    metrics = Metrics()
    metrics.read_gauges(lambda: [("num_requests_running", "Of the test.", 3.0)])
    metrics.take([record(), record(outcome="Error", work=5.0), record(outcome=REFUSED, status=401)])
    lines = metrics.text().decode().splitlines()
    for line in (
        'pyworker_requests_total{outcome="Success",route="/generate"} 1.0',
        'pyworker_requests_total{outcome="Error",route="/generate"} 1.0',
        'pyworker_requests_shed_total{status="401"} 1.0',
        "pyworker_workload_received_total 200.0",
        "pyworker_workload_served_total 45.0",
        "pyworker_num_requests_running 3.0",
        'pyworker_time_to_first_token_seconds_bucket{le="0.75"} 2.0',
        'pyworker_time_to_first_token_seconds_bucket{le="0.5"} 0.0',
        'pyworker_e2e_request_latency_seconds_bucket{le="1.0"} 2.0',
        'pyworker_request_queue_time_seconds_bucket{le="0.3"} 2.0',
    ):
        assert line in lines


def test_the_parts_of_the_server_timing_add_up() -> None:
    clock = iter([10.0, 10.1, 10.4, 11.0])
    watch = Stopwatch(lambda: next(clock))
    watch.admit()
    watch.start()
    assert watch.server_timing() == (
        "auth;dur=100.000, queue;dur=300.000, first;dur=600.000, total;dur=1000.000"
    )
