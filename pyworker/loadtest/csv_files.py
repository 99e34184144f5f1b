"""What --csv writes: a line for each request, or for each stage of a sweep. Times in seconds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from pyworker.loadtest.measurement import NO_WORKER, Measurement
from pyworker.loadtest.stage import Times
from pyworker.loadtest.sweep import SweepResult

REQUEST_HEAD = (
    "due", "started", "ended", "latency", "first_byte", "first_token", "per_token", "tokens", "workload",
    "good", "met", "worker", "turn", "input_tokens",
)  # fmt: skip
STAGE_HEAD = (
    "load", "requests", "failed", "throughput", "goodput", "tokens_per_second", "workload_per_second",
    "holds", "latency_p50", "latency_p90", "latency_p99", "first_token_p50", "first_token_p90",
    "first_token_p99", "per_token_p50", "per_token_p90", "per_token_p99",
)  # fmt: skip


def requests_csv(measurement: Measurement) -> str:
    """A line for each request that has ended; moments from the start of the test."""
    with measurement.frozen():
        samples = measurement.samples
        urls = {figures.number: url for url, figures in measurement.workers.items()}
        times = (samples.first_byte, samples.first_token, samples.per_token)
        rows = [
            (
                *(_digits(moment) for moment in (samples.due[at], samples.started[at], samples.ended[at])),
                _digits(samples.ended[at] - samples.due[at]),
                *(_digits(column[at]) for column in times),
                samples.tokens[at],
                samples.workload[at],
                samples.good[at],
                samples.met[at],
                "" if samples.worker[at] == NO_WORKER else urls.get(samples.worker[at], ""),
                samples.turn[at] or "",
                samples.input_tokens[at] or "",
            )
            for at in range(len(samples.due))
        ]
    return _text(REQUEST_HEAD, rows)


def stages_csv(result: SweepResult) -> str:
    """A line for each stage. An empty time is that of a request that failed."""
    rows = [
        (
            *(one.load, one.requests, one.failed, one.throughput, one.goodput),
            *(one.token_rate, one.workload_rate, int(one.holds)),
            *(cell for times in (one.total, one.first_token, one.per_token) for cell in _cells(times)),
        )
        for one in result.stages
    ]
    return _text(STAGE_HEAD, rows)


def _cells(times: Times | None) -> Sequence[float | None]:
    return (None, None, None) if times is None else (times.p50, times.p90, times.p99)


def _digits(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{seconds:.6f}"


def _text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()
