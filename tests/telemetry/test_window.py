"""The last minute, and who is told of a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from prometheus_client.core import GaugeMetricFamily

from pyworker.errors import BodyTooLarge, NotReady, Overloaded, RequestError, Unauthorized
from pyworker.telemetry.causes import FAILURES, SHED, failure_cause, shed_cause
from pyworker.telemetry.idle import IdleTime
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
    metrics.read_gauges(lambda: [GaugeMetricFamily("pyworker_num_requests_running", "Of the test.", 3.0)])
    metrics.take([record(), record(outcome="Error", work=5.0), record(outcome=REFUSED, status=401)])
    lines = metrics.text().decode().splitlines()
    for line in (
        'pyworker_requests_total{outcome="Success",route="/generate"} 1.0',
        'pyworker_requests_total{outcome="Error",route="/generate"} 1.0',
        'pyworker_requests_shed_total{reason="unauthorized"} 1.0',
        'pyworker_requests_errors_total{reason="model_error"} 1.0',
        "pyworker_request_success_total 1.0",
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


# -- tokens ----------------------------------------------------------------------------------------------


def lines_of(*records: RequestRecord) -> list[str]:
    metrics = Metrics()
    metrics.take(records)
    return metrics.text().decode().splitlines()


def test_tokens_are_counted_as_told() -> None:
    told = record(prompt_tokens=30, generation_tokens=11)
    lines = lines_of(told, told, record())
    for line in (
        "pyworker_prompt_tokens_total 60.0",
        "pyworker_generation_tokens_total 22.0",
        'pyworker_request_prompt_tokens_bucket{le="20.0"} 0.0',
        'pyworker_request_prompt_tokens_bucket{le="50.0"} 2.0',
        'pyworker_request_generation_tokens_bucket{le="+Inf"} 2.0',
        "pyworker_inter_token_latency_seconds_count 0.0",
    ):
        assert line in lines

    window = Window(lambda: NOW)
    window.take([told] * 60)
    summary = window.summary()
    assert (summary["prompt_tokens_per_second"], summary["generation_tokens_per_second"]) == (30.0, 11.0)


def test_the_time_between_tokens_weighs_as_many_as_there_were() -> None:
    # 0.6 s to the first byte, and 0.4 s for ten more tokens.
    told = record(total=1.0, generation_tokens=11, events=13)
    lines = lines_of(told, record(total=1.6, events=6))
    for line in (
        'pyworker_inter_token_latency_seconds_bucket{le="0.025"} 0.0',
        'pyworker_inter_token_latency_seconds_bucket{le="0.05"} 10.0',
        'pyworker_inter_token_latency_seconds_bucket{le="0.2"} 15.0',
        "pyworker_inter_token_latency_seconds_count 15.0",
        'pyworker_request_time_per_output_token_seconds_bucket{le="0.05"} 1.0',
        "pyworker_request_time_per_output_token_seconds_count 2.0",
    ):
        assert line in lines


def test_a_response_of_one_token_or_none_has_no_time_between_them() -> None:
    lines = lines_of(record(events=1), record(first_byte=None, events=3), record(generation_tokens=9))
    assert "pyworker_inter_token_latency_seconds_count 0.0" in lines


# -- reasons ---------------------------------------------------------------------------------------------


def test_the_reason_of_a_refusal_is_that_of_its_error() -> None:
    """Every error class that has a status, so that a new one is not forgotten."""
    found = {
        error: shed_cause(record(outcome=REFUSED, status=error.status, first_byte=None))
        for error in _all_of(RequestError)
        if error.status not in (500, 502, 504)
    }
    assert found[NotReady] == "not_ready"
    assert found[Overloaded] == "overloaded"
    assert found[Unauthorized] == "unauthorized"
    assert found[BodyTooLarge] == "too_large"
    assert "other" not in found.values()


def _all_of(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    for one in kind.__subclasses__():
        if one.__module__ == kind.__module__:
            yield one
            yield from _all_of(one)


@pytest.mark.parametrize(
    ("fields", "shed", "failure"),
    [
        ({"outcome": "Rejected", "status": 429, "first_byte": None}, "queue_timeout", ""),
        ({"outcome": "Rejected", "status": 429}, "model_busy", ""),
        ({"outcome": "Rejected", "status": 503, "first_byte": None}, "not_ready", ""),
        ({"outcome": "Error", "status": 502, "first_byte": None}, "", "model_unreachable"),
        ({"outcome": "Error", "status": 504, "first_byte": None}, "", "model_timeout"),
        ({"outcome": "Error", "reason": "it broke off"}, "", "response_cut"),
        ({"outcome": "Error"}, "", "model_error"),
        ({"outcome": "Error", "status": 500, "first_byte": None}, "", "other"),
        ({"outcome": REFUSED, "status": 418}, "other", ""),
        ({"outcome": "Cancelled", "status": 499}, "", ""),
        ({}, "", ""),
    ],
)
def test_the_reason_of_an_admitted_request(fields: dict[str, Any], shed: str, failure: str) -> None:
    assert (shed_cause(record(**fields)), failure_cause(record(**fields))) == (shed, failure)
    assert shed in ("", *SHED)
    assert failure in ("", *FAILURES)


# -- idle time -------------------------------------------------------------------------------------------


def test_the_idle_share_looks_back_a_minute() -> None:
    now, busy = 1000.0, 0.0
    idle = IdleTime(lambda: busy, lambda: now)
    assert idle.shares() == (1.0, 1.0)
    for _ in range(60):  # a minute at work
        now, busy = now + 1, busy + 1
        idle.sample()
    assert idle.shares() == pytest.approx((0.0, 0.0))
    for _ in range(30):
        now += 1
        idle.sample()
    assert idle.shares() == pytest.approx((0.5, 1 / 3), abs=0.02)
    for _ in range(1000):
        now += 1
        idle.sample()
    assert idle.shares().last_minute == 1.0
    assert len(idle._samples) <= 62  # pyright: ignore[reportPrivateUsage]


def test_each_second_of_the_last_minute() -> None:
    window = Window(lambda: NOW + 0.5)
    window.take([record(NOW - 60.1)] * 3 + [record(NOW - 60)] * 2)
    window.take(
        [record(NOW - 1, total=0.25, generation_tokens=7), record(NOW - 1, outcome="Error", work=None)]
    )
    window.take([record(NOW - 1, outcome=REFUSED, status=429), record(NOW)])
    seconds = window.by_second()
    assert {len(values) for values in seconds.values()} == {60}
    assert {name: (values[0], values[1], values[-1]) for name, values in seconds.items()} == {
        "succeeded": (2, 0, 1),
        "failed": (0, 0, 1),
        "refused": (0, 0, 1),
        "workload": (80.0, 0.0, 40.0),
        "tokens": (0, 0, 7),
        "p50": (1.0, None, 0.25),
        "p99": (1.0, None, 1.0),
    }
