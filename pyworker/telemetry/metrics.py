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

from pyworker.telemetry.causes import FAILURES, SHED, failure_cause, shed_cause
from pyworker.telemetry.histogram import FIRST_TOKEN, NEXT_TOKEN, TOKENS, WHOLE, Histogram
from pyworker.telemetry.record import REFUSED, SUCCESS, RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PER_TOKEN = (
    "of streams: from the first byte to the end, divided by the tokens after the first, or by events where "
    "the response tells no tokens."
)


class Metrics(Collector):
    """The metrics of one worker. Thread-safe."""

    def __init__(self) -> None:
        # Guards everything below but the gauges and the registry.
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        # From 0 on: the rate of a series that begins at 1 misses the first.
        self._shed, self._errors = Counter(dict.fromkeys(SHED, 0)), Counter(dict.fromkeys(FAILURES, 0))
        self._received = self._served = 0.0
        self._queue = Histogram("request_queue_time_seconds", WHOLE, "Time in the queue.")
        self._first = Histogram(
            "time_to_first_token_seconds",
            FIRST_TOKEN,
            "From the arrival of a request until the first byte of the model server's response.",
        )
        self._between = Histogram(
            "inter_token_latency_seconds",
            NEXT_TOKEN,
            f"Mean time between the tokens of a request, counted once for each of its tokens, {_PER_TOKEN}",
        )
        self._per_token = Histogram(
            "request_time_per_output_token_seconds",
            NEXT_TOKEN,
            f"The same, counted once for each request, {_PER_TOKEN}",
        )
        self._inference = Histogram(
            "request_inference_time_seconds",
            WHOLE,
            "From the end of a request's time in the queue to its end.",
        )
        self._total = Histogram(
            "e2e_request_latency_seconds", WHOLE, "From the arrival of a request until its end."
        )
        self._prompt = Histogram(
            "request_prompt_tokens", TOKENS, "Tokens of a prompt, as told by the model server."
        )
        self._generation = Histogram(
            "request_generation_tokens",
            TOKENS,
            "Tokens generated for a request, as told by the model server.",
        )
        self._gauges: Callable[[], Iterable[Metric]] = tuple
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def read_gauges(self, gauges: Callable[[], Iterable[Metric]]) -> None:
        """Also tell these, read when the metrics are asked for."""
        self._gauges = gauges

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Count these requests. A batch at a time: most of it is done by loops of the interpreter itself."""
        ended = [record for record in records if record.outcome != REFUSED]
        with self._lock:
            for record in records:
                if record.outcome != SUCCESS:
                    self._take_cause(record)
            self._requests.update([(record.route, record.outcome) for record in ended])
            self._received += sum([record.workload for record in ended])
            self._served += sum([record.work or 0.0 for record in ended])
            self._queue.observe_all([record.queued for record in ended])
            self._inference.observe_all([record.working for record in ended])
            self._total.observe_all([record.total for record in ended])
            self._first.observe_all(
                [record.total_to_first_byte for record in ended if record.first_byte is not None]
            )
            for record in ended:
                if record.prompt_tokens is not None or record.generation_tokens is not None or record.events:
                    self._take_tokens(record)

    def _take_cause(self, record: RequestRecord) -> None:
        if cause := shed_cause(record):
            self._shed[cause] += 1
        if cause := failure_cause(record):
            self._errors[cause] += 1

    def _take_tokens(self, record: RequestRecord) -> None:
        if record.prompt_tokens is not None:
            self._prompt.observe(record.prompt_tokens)
        if record.generation_tokens is not None:
            self._generation.observe(record.generation_tokens)
        if record.events and (seconds := record.seconds_per_token) is not None:
            self._between.observe(seconds, record.tokens_after_first)
            self._per_token.observe(seconds)

    def tokens(self) -> tuple[float, float]:
        """Those of prompts, and those that were generated, since the start."""
        with self._lock:
            return self._prompt.sum, self._generation.sum

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
        for name, causes, explanation in (
            (
                "shed",
                self._shed,
                "Requests that were refused, or rejected after they had been admitted, by reason.",
            ),
            ("errors", self._errors, "Admitted requests that failed, by reason."),
        ):
            family = CounterMetricFamily(f"pyworker_requests_{name}", explanation, labels=["reason"])
            for cause, count in causes.items():
                family.add_metric([cause], count)
            yield family

    def _unlabelled(self) -> Iterable[Metric]:
        successes = sum(count for (_, outcome), count in self._requests.items() if outcome == SUCCESS)
        for name, explanation, value in (
            ("request_success", "Requests that were served.", successes),
            ("workload_received", "Workload of admitted requests, as estimated.", self._received),
            ("workload_served", "Workload that was done, as far as known.", self._served),
            ("prompt_tokens", "Tokens of prompts, as told by the model server.", self._prompt.sum),
            ("generation_tokens", "Tokens that were generated, as told by it.", self._generation.sum),
        ):
            yield CounterMetricFamily(f"pyworker_{name}", explanation, value=value)
        times = (self._queue, self._first, self._between, self._per_token, self._inference, self._total)
        for histogram in (*times, self._prompt, self._generation):
            yield histogram.family()
