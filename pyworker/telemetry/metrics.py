"""Counters and histograms for Prometheus.

Names, suffixes and buckets are those of vLLM, with our prefix, so that a dashboard for vLLM needs no other
change. They are plain numbers, and become metrics of `prometheus_client` when they are asked for: its own
counters cost more than the rest of a small request's bookkeeping.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pyworker.telemetry.record import REFUSED, RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
_WHOLE = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

#: Name without the prefix, its help, its value now.
Reading = tuple[str, str, float]


class _Histogram:
    """Numbers of values up to each bound. Guarded by the lock of `Metrics`."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self, name: str, explanation: str) -> Metric:
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(f"pyworker_{name}", explanation, buckets=buckets, sum_value=self._sum)


class Metrics(Collector):
    """The metrics of one worker. Thread-safe."""

    def __init__(self) -> None:
        # Guards everything below but the registry.
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._shed: Counter[int] = Counter()
        self._received = self._served = 0.0
        self._queued, self._first, self._total = (
            _Histogram(_WHOLE),
            _Histogram(_FIRST_TOKEN),
            _Histogram(_WHOLE),
        )
        self._readings: Callable[[], Iterable[Reading]] = tuple
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def read_gauges(self, readings: Callable[[], Iterable[Reading]]) -> None:
        """Also tell these gauges, read when the metrics are asked for."""
        self._readings = readings

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Count these requests."""
        with self._lock:
            for record in records:
                if record.outcome == REFUSED:
                    self._shed[record.status] += 1
                    continue
                self._requests[record.route, record.outcome] += 1
                self._received += record.workload
                self._served += record.work or 0.0
                self._queued.observe(record.queued)
                self._total.observe(record.total)
                if record.first_byte is not None:
                    self._first.observe(record.total_to_first_byte)

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not ask before the worker is made."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        for name, explanation, value in self._readings():
            yield GaugeMetricFamily(f"pyworker_{name}", explanation, value=value)
        with self._lock:
            families = self._families()
        yield from families

    def _families(self) -> Sequence[Metric]:
        requests = CounterMetricFamily(
            "pyworker_requests",
            "Requests that were admitted and ended, by route and outcome.",
            labels=["route", "outcome"],
        )
        for (route, outcome), count in self._requests.items():
            requests.add_metric([route, outcome], count)
        shed = CounterMetricFamily(
            "pyworker_requests_shed", "Requests that were refused, by status.", labels=["status"]
        )
        for status, count in self._shed.items():
            shed.add_metric([str(status)], count)
        received, served = (
            "Workload of admitted requests, as estimated.",
            "Workload that was done, as far as known.",
        )
        return [
            requests,
            shed,
            CounterMetricFamily("pyworker_workload_received", received, value=self._received),
            CounterMetricFamily("pyworker_workload_served", served, value=self._served),
            self._queued.family("request_queue_time_seconds", "Time in the queue."),
            self._first.family(
                "time_to_first_token_seconds",
                "From the arrival of a request until the model server's response began.",
            ),
            self._total.family("e2e_request_latency_seconds", "From the arrival of a request until its end."),
        ]
