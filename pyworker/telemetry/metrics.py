"""Counters and histograms for Prometheus.

Names, suffixes and buckets are those of vLLM, with our prefix, so that a dashboard for vLLM needs no other
change. They are plain numbers, and become metrics of `prometheus_client` when they are asked for: its own
counters cost more than the rest of a small request's bookkeeping.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from pyworker.telemetry.causes import failure_cause, shed_cause
from pyworker.telemetry.histogram import FIRST_TOKEN, NEXT_TOKEN, TOKENS, WHOLE, Histogram
from pyworker.telemetry.record import REFUSED, RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SUCCESS = "Success"
_PER_TOKEN = (
    "of streams: from the first byte to the end, divided by the tokens after the first, or by events where "
    "the response tells no tokens."
)
_HISTOGRAMS = {
    "request_queue_time_seconds": (WHOLE, "Time in the queue."),
    "time_to_first_token_seconds": (
        FIRST_TOKEN,
        "From the arrival of a request until the first byte of the model server's response.",
    ),
    "inter_token_latency_seconds": (
        NEXT_TOKEN,
        f"Mean time between the tokens of a request, counted once for each of its tokens, {_PER_TOKEN}",
    ),
    "request_time_per_output_token_seconds": (
        NEXT_TOKEN,
        f"The same, counted once for each request, {_PER_TOKEN}",
    ),
    "request_inference_time_seconds": (WHOLE, "From the end of a request's time in the queue to its end."),
    "e2e_request_latency_seconds": (WHOLE, "From the arrival of a request until its end."),
    "request_prompt_tokens": (TOKENS, "Tokens of a prompt, as told by the model server."),
    "request_generation_tokens": (TOKENS, "Tokens generated for a request, as told by the model server."),
}
_COUNTERS = {
    "request_success": "Requests that were served.",
    "workload_received": "Workload of admitted requests, as estimated.",
    "workload_served": "Workload that was done, as far as known.",
    "prompt_tokens": "Tokens of prompts, as told by the model server.",
    "generation_tokens": "Tokens that were generated, as told by the model server.",
}


class Metrics(Collector):
    """The metrics of one worker. Thread-safe."""

    def __init__(self) -> None:
        # Guards the four below.
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._causes: dict[str, Counter[str]] = {"shed": Counter(), "errors": Counter()}
        self._counts = dict.fromkeys(_COUNTERS, 0.0)
        self._histograms = {name: Histogram(bounds) for name, (bounds, _) in _HISTOGRAMS.items()}
        self._gauges: Callable[[], Iterable[Metric]] = tuple
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def read_gauges(self, gauges: Callable[[], Iterable[Metric]]) -> None:
        """Also tell these, read when the metrics are asked for."""
        self._gauges = gauges

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Count these requests."""
        with self._lock:
            for record in records:
                if cause := shed_cause(record):
                    self._causes["shed"][cause] += 1
                if record.outcome != REFUSED:
                    self._take(record)

    def _take(self, record: RequestRecord) -> None:
        self._requests[record.route, record.outcome] += 1
        if cause := failure_cause(record):
            self._causes["errors"][cause] += 1
        counts, histograms = self._counts, self._histograms
        counts["request_success"] += record.outcome == _SUCCESS
        counts["workload_received"] += record.workload
        counts["workload_served"] += record.work or 0.0
        for name in ("prompt_tokens", "generation_tokens"):
            tokens: int | None = getattr(record, name)
            if tokens is not None:
                counts[name] += tokens
                histograms[f"request_{name}"].observe(tokens)
        histograms["request_queue_time_seconds"].observe(record.queued)
        histograms["request_inference_time_seconds"].observe(record.working)
        histograms["e2e_request_latency_seconds"].observe(record.total)
        if record.first_byte is not None:
            histograms["time_to_first_token_seconds"].observe(record.total_to_first_byte)
        if (seconds := record.seconds_per_token) is not None:
            histograms["inter_token_latency_seconds"].observe(seconds, record.tokens_after_first)
            histograms["request_time_per_output_token_seconds"].observe(seconds)

    def tokens(self) -> tuple[float, float]:
        """Those of prompts, and those that were generated, since the start."""
        with self._lock:
            return self._counts["prompt_tokens"], self._counts["generation_tokens"]

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not ask before the worker is made."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        yield from self._gauges()
        with self._lock:
            families = [*self._labelled(), *self._unlabelled()]
        yield from families

    def _labelled(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "pyworker_requests",
            "Requests that were admitted and ended, by route and outcome.",
            labels=["route", "outcome"],
        )
        for (route, outcome), count in self._requests.items():
            requests.add_metric([route, outcome], count)
        yield requests
        for name, explanation in (
            ("shed", "Requests that were refused, or rejected after they had been admitted, by reason."),
            ("errors", "Admitted requests that failed, by reason."),
        ):
            family = CounterMetricFamily(f"pyworker_requests_{name}", explanation, labels=["reason"])
            for cause, count in self._causes[name].items():
                family.add_metric([cause], count)
            yield family

    def _unlabelled(self) -> Iterable[Metric]:
        for name, explanation in _COUNTERS.items():
            yield CounterMetricFamily(f"pyworker_{name}", explanation, value=self._counts[name])
        for name, (_, explanation) in _HISTOGRAMS.items():
            yield self._histograms[name].family(name, explanation)
