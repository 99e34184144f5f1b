"""A test in slices of time, for its plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyworker.loadtest.measurement import NO_WORKER, Measurement, Samples

MOST_STEPS = 120
REQUESTS_IN_STEP = 10


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


def slices(measurement: Measurement, seconds: float) -> tuple[float, list[Step]]:
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
