"""The figures of a finished test, as they are written to --json and read by every kind of report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import pydantic

from pyworker.errors import ConfigError
from pyworker.loadtest.cost import Cost, cost_of, idle_share
from pyworker.loadtest.histogram import Histogram
from pyworker.loadtest.measurement import METRICS, NO_WORKER, Measurement, Samples
from pyworker.loadtest.options import Plan

FORMAT = "pyworker-loadtest"
VERSION = 1
PERCENTS = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
MOST_STEPS = 120
REQUESTS_IN_STEP = 10


@dataclass(frozen=True)
class Spread:
    """How one time was spread over the requests, in seconds. `hdr` is its histogram in microseconds."""

    count: int
    smallest: float
    mean: float
    largest: float
    percentiles: Mapping[str, float]
    hdr: str


@dataclass(frozen=True)
class Failures:
    kind: str
    count: int
    statuses: Mapping[str, int]
    example: str


@dataclass(frozen=True)
class WorkerShare:
    """What one worker did; times of its good responses in seconds."""

    url: str
    requests: int
    failed: int
    p50: float
    p99: float


@dataclass(frozen=True)
class Step:
    """A slice of the test, `at` seconds from its start: responses by their end, times by when due."""

    at: float
    due: int
    succeeded: int
    failed: int
    in_flight: int
    """At the same moment, at most."""
    p50: float
    p90: float
    p99: float
    largest: float
    by_worker: Sequence[int]
    """Good responses of each worker, as `workers` orders them."""


@dataclass(frozen=True)
class Result:
    """Seconds and requests per second throughout."""

    started_at: str
    target: str
    wanted: str
    planned: int | None
    sent: int
    succeeded: int
    failed: int
    unfinished: int
    retried: int
    seconds: float
    sending_seconds: float
    start_rate: float
    throughput: float
    goodput: float
    workload_rate: float
    token_rate: float
    tokens: int
    received: int
    objective: Mapping[str, float]
    met: int
    times: Mapping[str, Spread]
    failures: Sequence[Failures]
    workers: Sequence[WorkerShare]
    step: float
    steps: Sequence[Step]
    format: str = FORMAT
    version: int = VERSION
    # Not in the files of before.
    idle_share: float | None = None
    """The part of the time in which no request was open."""
    cost: Cost | None = None
    """If --dollars-per-hour was given."""

    @property
    def error_share(self) -> float:
        """What did not succeed, the unfinished included."""
        return 1 - self.succeeded / self.sent if self.sent else 0.0

    @property
    def miss_share(self) -> float:
        """What did not meet the objective, for whatever reason."""
        return 1 - self.met / self.sent if self.sent else 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


_PARSER = pydantic.TypeAdapter(Result)


def result_of(measurement: Measurement, plan: Plan, target: str) -> Result:
    """The figures so far; requests that have not ended count as unfinished."""
    with measurement.frozen() as now:
        seconds = max(now - measurement.begin, 1e-9)
        sending = max(measurement.last_start - measurement.begin, 1e-9)
        step, steps = _steps(measurement, seconds)
        return Result(
            started_at=datetime.fromtimestamp(measurement.wall_begin, timezone.utc).isoformat(
                timespec="seconds"
            ),
            target=target,
            wanted=plan.wanted,
            planned=plan.count,
            sent=measurement.sent,
            succeeded=measurement.succeeded,
            failed=measurement.failed,
            unfinished=measurement.unfinished,
            retried=measurement.retried,
            seconds=seconds,
            sending_seconds=sending,
            start_rate=(measurement.sent - 1) / sending if measurement.sent > 1 else 0.0,
            throughput=measurement.succeeded / seconds,
            goodput=measurement.met / seconds,
            workload_rate=measurement.workload / seconds,
            token_rate=measurement.tokens / seconds,
            tokens=measurement.tokens,
            received=measurement.received,
            objective=dict(plan.objective.limits),
            met=measurement.met,
            times={metric: _spread(measurement.histograms[metric]) for metric in METRICS},
            failures=[
                Failures(kind, one.count, {str(k): v for k, v in one.statuses.items()}, one.example)
                for kind, one in sorted(measurement.errors.items(), key=lambda item: -item[1].count)
            ],
            workers=[
                WorkerShare(url, one.requests, one.failed, *one.total.percentiles((50.0, 99.0)).values())
                for url, one in measurement.workers.items()
            ],
            step=step,
            steps=steps,
            idle_share=idle_share(
                zip(measurement.samples.due, measurement.samples.ended, strict=True), seconds
            ),
            cost=_cost(plan.dollars_per_hour, measurement, seconds),
        )


def _cost(per_hour: float | None, measurement: Measurement, seconds: float) -> Cost | None:
    if per_hour is None:
        return None
    return cost_of(per_hour, seconds, measurement.tokens, measurement.workload)


def _spread(histogram: Histogram) -> Spread:
    percentiles = {f"p{percent:g}": value for percent, value in histogram.percentiles(PERCENTS).items()}
    extent = histogram.smallest, histogram.mean, histogram.largest
    return Spread(histogram.count, *extent, percentiles, histogram.encoded())


def _steps(measurement: Measurement, seconds: float) -> tuple[float, list[Step]]:
    """The test in slices of one, two or five seconds, or the like."""
    step = _step(measurement, seconds)
    count = int(seconds / step) + 1
    samples = measurement.samples
    latencies: list[list[float]] = [[] for _ in range(count)]
    succeeded, failed, due = ([0] * count for _ in range(3))
    by_worker = [[0] * min(len(measurement.workers), NO_WORKER) for _ in range(count)]
    for begin, end, worker, good in zip(
        samples.due, samples.ended, samples.worker, samples.good, strict=True
    ):
        first, last = min(int(begin / step), count - 1), min(int(end / step), count - 1)
        due[first] += 1
        if good:
            latencies[first].append(end - begin)
            succeeded[last] += 1
            if worker != NO_WORKER:
                by_worker[last][worker] += 1
        else:
            failed[last] += 1
    steps: list[Step] = []
    in_flight = _most_in_flight(samples, step, count)
    for number in range(count):
        ranked = sorted(latencies[number])
        p50, p90, p99, largest = (_rank(ranked, share) for share in (0.5, 0.9, 0.99, 1.0))
        counts = due[number], succeeded[number], failed[number], in_flight[number]
        steps.append(Step(round(number * step, 2), *counts, p50, p90, p99, largest, by_worker[number]))
    return step, steps


def _most_in_flight(samples: Samples, step: float, count: int) -> list[int]:
    """For each slice, how many requests were in flight at the same moment, at most."""
    starts, ends = sorted(samples.started), sorted(samples.ended)
    most: list[int] = []
    begun = ended = 0
    for number in range(count):
        end = (number + 1) * step
        peak = begun - ended
        while begun < len(starts) and starts[begun] < end:
            # What ends at the moment of a start is no longer in flight.
            while ended < begun and ends[ended] <= starts[begun]:
                ended += 1
            begun += 1
            peak = max(peak, begun - ended)
        while ended < len(ends) and ends[ended] < end:
            ended += 1
        most.append(peak)
    return most


def _step(measurement: Measurement, seconds: float) -> float:
    """Seconds of a slice; few requests make few slices, since a percentile of three means nothing."""
    finest = max(
        seconds / MOST_STEPS, min(REQUESTS_IN_STEP * seconds / max(1, measurement.sent), seconds / 20)
    )
    scales = (0.01, 0.1, 1, 10, 100, 1_000, 10_000)
    return next(size * scale for scale in scales for size in (1, 2, 5) if size * scale >= finest)


def _rank(ranked: Sequence[float], share: float) -> float:
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0


def read_result(path: Path) -> Result:
    """What an earlier test wrote with --json; raises `ConfigError`."""
    try:
        result = _PARSER.validate_json(path.read_bytes())
        for spread in result.times.values():
            Histogram.decoded(spread.hdr)
    except OSError as error:
        raise ConfigError(f"--compare {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--compare {path} was not written by --json of this load test") from error
    if (result.format, result.version) != (FORMAT, VERSION):
        raise ConfigError(f"--compare {path} is of another version of the load test ({result.version})")
    return result
