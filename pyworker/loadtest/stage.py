"""One load of a sweep: what was measured between its warm-up and its cool-down."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyworker.loadtest.cost import Cost, cost_of
from pyworker.loadtest.measurement import Measurement, Samples

#: More requests than this share of those due, left over at the end, mean that the server falls behind.
BEHIND = 0.05


@dataclass(frozen=True)
class Window:
    """The measured part of a stage, in seconds from its start."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class Times:
    """Of one measure, in seconds. A failed request counts as one that never ended; None if that is it."""

    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True)
class Stage:
    """Requests are those that were due in the window; rates are of the responses that ended in it."""

    load: float
    seconds: float
    requests: int
    failed: int
    throughput: float
    goodput: float
    token_rate: float
    workload_rate: float
    mean: float
    """Latency of good responses."""
    total: Times
    first_token: Times | None
    per_token: Times | None
    late: float
    """Delay of the generator itself, for one request in a hundred."""
    missed: Mapping[str, float]
    """For each objective, the share of requests that missed it."""
    behind: int
    """How many more requests were in flight at the end than at the begin, if that is too many."""
    failing: Sequence[str]
    """The objectives that did not hold."""
    cost: Cost | None = None

    @property
    def holds(self) -> bool:
        return not self.failing


def stage_of(
    measurement: Measurement, load: float, window: Window, per_hour: float | None, *, closed: bool
) -> Stage:
    """Once every request of the stage has ended. closed: the server cannot fall behind."""
    samples, goals = measurement.samples, measurement.goals
    due = [place for place, at in enumerate(samples.due) if window.begin <= at < window.end]
    ended = [
        place
        for place, at in enumerate(samples.ended)
        if samples.good[place] and window.begin <= at < window.end
    ]
    missed = {
        goal.name: sum(samples.missed[place] >> number & 1 for place in due) / max(1, len(due))
        for number, goal in enumerate(goals)
    }
    behind = 0 if closed else _behind(samples, window, len(due))
    tokens = sum(samples.tokens[place] for place in ended)
    workload = sum(samples.workload[place] for place in ended)
    good = [samples.ended[place] - samples.due[place] for place in due if samples.good[place]]
    failing = [goal.name for goal in goals if missed[goal.name] > goal.allowed + 1e-9]
    return Stage(
        load=load,
        seconds=window.seconds,
        requests=len(due),
        failed=sum(not samples.good[place] for place in due),
        throughput=len(ended) / window.seconds,
        goodput=sum(samples.met[place] for place in ended) / window.seconds,
        token_rate=tokens / window.seconds,
        workload_rate=workload / window.seconds,
        mean=sum(good) / len(good) if good else 0.0,
        total=_times(
            [samples.ended[place] - samples.due[place] if samples.good[place] else math.inf for place in due]
        ),
        first_token=_times_of(samples.first_token, samples, due),
        per_token=_times_of(samples.per_token, samples, due),
        late=_rank(sorted(samples.started[place] - samples.due[place] for place in due), 0.99) or 0.0,
        missed=missed,
        behind=behind,
        failing=[*failing, *(["the server falls behind"] if behind else ())],
        cost=None if per_hour is None else cost_of(per_hour, window.seconds, tokens, workload),
    )


def _behind(samples: Samples, window: Window, due: int) -> int:
    """Requests that piled up in the window; 0 if no more did than chance explains."""
    at_begin, at_end = (_in_flight(samples, moment) for moment in (window.begin, window.end))
    # Of independent arrivals the number in flight varies by its square root; here at both ends.
    chance = 3 * math.sqrt(2 * (at_begin + 1))
    more = at_end - at_begin
    return more if more > max(BEHIND * due, chance) else 0


def _in_flight(samples: Samples, moment: float) -> int:
    return sum(begin <= moment < end for begin, end in zip(samples.due, samples.ended, strict=True))


def _times_of(column: array[float], samples: Samples, due: Sequence[int]) -> Times | None:
    """None if nothing of the kind was measured."""
    values = [column[place] if samples.good[place] else math.inf for place in due]
    known = [value for value in values if not math.isnan(value)]
    return _times(known) if any(math.isfinite(value) for value in known) else None


def _times(values: Sequence[float]) -> Times:
    ranked = sorted(values)
    return Times(*(_rank(ranked, share) for share in (0.5, 0.9, 0.99)))


def _rank(ranked: Sequence[float], share: float) -> float | None:
    """The value that this share did not exceed."""
    if not ranked:
        return None
    value = ranked[max(0, math.ceil(share * len(ranked)) - 1)]
    return value if math.isfinite(value) else None


class Hopeless:
    """Whether an objective cannot be met any more, as a stage goes on; of one thread.

    expected: requests that will have been due in the window.
    """

    def __init__(self, measurement: Measurement, window: Window, expected: float) -> None:
        self._measurement = measurement
        self._window = window
        self._most = [goal.allowed * expected for goal in measurement.goals]
        self._missed = [0] * len(self._most)
        self._seen = 0

    def __call__(self) -> bool:
        samples = self._measurement.samples
        with self._measurement.frozen():
            for place in range(self._seen, len(samples.due)):
                if self._window.begin <= samples.due[place] < self._window.end:
                    for number in range(len(self._missed)):
                        self._missed[number] += samples.missed[place] >> number & 1
            self._seen = len(samples.due)
        # One more than allowed, and one in fifty for arrivals by chance.
        return any(count > most * 1.02 + 1 for count, most in zip(self._missed, self._most, strict=True))
