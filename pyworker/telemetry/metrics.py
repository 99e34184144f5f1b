"""Counters and histograms for Prometheus.

Names, suffixes and buckets are those of vLLM, with our prefix, so that a dashboard for vLLM needs no other
change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pyworker.telemetry.record import REFUSED, RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)
_WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)

#: Name without the prefix, its help, its value now.
Reading = tuple[str, str, float]


class Metrics:
    """The metrics of one worker. Thread-safe."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "pyworker_requests",
            "Requests that were admitted and ended, by route and outcome.",
            ["route", "outcome"],
            registry=registry,
        )
        self._shed = Counter(
            "pyworker_requests_shed", "Requests that were refused, by status.", ["status"], registry=registry
        )
        self._received = Counter(
            "pyworker_workload_received", "Workload of admitted requests, as estimated.", registry=registry
        )
        self._served = Counter(
            "pyworker_workload_served", "Workload that was done, as far as it is known.", registry=registry
        )
        self._queued = Histogram(
            "pyworker_request_queue_time_seconds",
            "Time in the queue.",
            buckets=_WHOLE,
            registry=registry,
        )
        self._first = Histogram(
            "pyworker_time_to_first_token_seconds",
            "From the arrival of a request until the model server's response began.",
            buckets=_FIRST_TOKEN,
            registry=registry,
        )
        self._total = Histogram(
            "pyworker_e2e_request_latency_seconds",
            "From the arrival of a request until its end.",
            buckets=_WHOLE,
            registry=registry,
        )

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Count these requests."""
        for record in records:
            if record.outcome == REFUSED:
                self._shed.labels(str(record.status)).inc()
                continue
            self._requests.labels(record.route, record.outcome).inc()
            self._received.inc(record.workload)
            self._served.inc(record.work or 0.0)
            self._queued.observe(record.queued)
            self._total.observe(record.total)
            if record.first_byte is not None:
                self._first.observe(record.total_to_first_byte)

    def read_gauges(self, readings: Callable[[], Iterable[Reading]]) -> None:
        """Also tell these gauges, read when the metrics are asked for. Called once."""
        self._registry.register(_Gauges(readings))

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, readings: Callable[[], Iterable[Reading]]) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        for name, explanation, value in self._readings():
            yield GaugeMetricFamily(f"pyworker_{name}", explanation, value=value)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not take a reading before the worker is made."""
        return ()
