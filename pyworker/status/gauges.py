"""What `/metrics` tells of now: the queue, the model's state, the benchmark, reports, connections, costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pyworker.lifecycle.state import ModelState
from pyworker.status.cost import dollars_per_million_tokens, dollars_per_unit_of_workload
from pyworker.status.report import since_start, why_not_ready
from pyworker.worker import Worker


def gauges_of(worker: Worker) -> Iterable[Metric]:
    """Read now."""
    yield from _load(worker)
    yield from _model(worker)
    yield _counter("report_failures", "Reports that the autoscaler has not accepted.", worker.reporter.failed)
    yield _gauge(
        "reports_failed_in_a_row",
        "Reports in a row that the autoscaler has not accepted.",
        worker.reporter.last.failures,
    )
    yield _by_label("connections", "Connections of clients, by stage.", "stage", worker.connections())
    yield from _cost(worker)


def _load(worker: Worker) -> Iterable[Metric]:
    load, in_hand = worker.ledger.in_hand()
    waiting = worker.ledger.waiting()
    wait = worker.admission.estimated_wait()
    yield _gauge("num_requests_running", "Requests that the model server works on.", in_hand - waiting)
    yield _gauge("num_requests_waiting", "Requests in the queue.", waiting)
    yield _gauge("max_requests_in_hand", "Most requests in hand at once.", worker.settings.max_in_hand)
    yield _gauge("workload_in_hand", "Workload of the requests in hand.", load)
    yield _gauge("estimated_wait_seconds", "Time until the requests in hand are done.", wait)


def _model(worker: Worker) -> Iterable[Metric]:
    status = worker.lifecycle.status
    yield _by_label(
        "model_state",
        "1 for the state that the model is in, else 0.",
        "state",
        {state.value: float(status.state is state) for state in ModelState},
    )
    since = worker.model.phases.current.since
    yield _gauge("model_state_since_timestamp_seconds", "When it entered its state, epoch seconds.", since)
    yield _gauge("ready", "1 if a request would be served now, else 0.", float(not why_not_ready(worker)))
    yield _gauge(
        "benchmark_throughput", "Workload per second, as measured by the benchmark.", status.throughput
    )


def _cost(worker: Worker) -> Iterable[Metric]:
    yield _counter("busy_seconds", "Time with a request in hand.", worker.ledger.busy_seconds())
    shares = worker.idle.shares()
    yield _gauge("idle_ratio", "Part of the last minute with nothing in hand.", shares.last_minute)
    dollars, period = worker.settings.dollars_per_hour, since_start(worker)
    if not dollars:
        return
    yield _gauge("dollars_per_hour", "Price of the machine, as set by DOLLARS_PER_HOUR.", dollars)
    if (each := dollars_per_million_tokens(dollars, period)) is not None:
        yield _gauge("dollars_per_million_tokens", "For each million generated tokens since the start.", each)
    if (each := dollars_per_unit_of_workload(dollars, period)) is not None:
        yield _gauge("dollars_per_unit_of_workload", "For each unit of workload since the start.", each)


def _gauge(name: str, explanation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"pyworker_{name}", explanation, value=value)


def _counter(name: str, explanation: str, value: float) -> Metric:
    return CounterMetricFamily(f"pyworker_{name}", explanation, value=value)


def _by_label(name: str, explanation: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"pyworker_{name}", explanation, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
