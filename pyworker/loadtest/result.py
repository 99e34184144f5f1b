"""The figures of a finished test, as they are written to --json and read by every kind of report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import pydantic

from pyworker.errors import ConfigError
from pyworker.loadtest.cost import Cost, cost_of, idle_share
from pyworker.loadtest.histogram import Histogram
from pyworker.loadtest.measurement import METRICS, Measurement, Samples
from pyworker.loadtest.own_figures import OwnFigures
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.slices import Step, slices
from pyworker.loadtest.turns import TurnFigures, turn_figures

FORMAT = "pyworker-loadtest"
VERSION = 1
PERCENTS = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


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
class Lengths:
    """Of good requests or responses; in tokens or bytes."""

    mean: float
    p50: int
    p90: int
    largest: int


@dataclass(frozen=True)
class GoalOutcome:
    """The share of requests that missed an objective, of the share that may."""

    name: str
    missed: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.missed <= self.allowed + 1e-9


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
    goals: Sequence[GoalOutcome] = ()
    """Of --objective."""
    own: Sequence[OwnFigures] = ()
    """What workers say themselves."""
    token_goodput: float = 0.0
    """Tokens of responses that met the objective, per second."""
    cancelled: int = 0
    """Of the good ones, those that the test itself broke off."""
    lengths: Mapping[str, Lengths] = field(default_factory=dict[str, Lengths])
    """request_bytes, request_tokens, response_bytes and response_tokens, as far as they are known."""
    seed: int | None = None
    """The same options with it make the same arrivals, lengths, texts and pauses."""
    shape: str = ""
    """The lengths that were asked for, in words."""
    tokens_by: str = ""
    """Who counted the tokens of requests that were given a length."""
    conversations: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many were begun, and how many ended whole, broken (by a failure) or stopped (by the test's end)."""
    sessions: str = ""
    """Whether each was held in a session."""
    turns: Sequence[TurnFigures] = ()

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
        step, steps = slices(measurement, seconds)
        return Result(
            started_at=datetime.fromtimestamp(measurement.wall_begin, timezone.utc).isoformat(
                timespec="seconds"
            ),
            target=target,
            wanted=plan.wanted,
            planned=plan.planned,
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
            goals=[
                GoalOutcome(goal.name, _missed(measurement, number), goal.allowed)
                for number, goal in enumerate(measurement.goals)
            ],
            token_goodput=measurement.tokens_met / seconds,
            cancelled=measurement.cancelled,
            lengths=_lengths(measurement.samples),
            seed=plan.seed,
            shape="" if plan.shape is None else str(plan.shape),
            conversations=_conversations(measurement),
            turns=turn_figures(measurement.samples),
        )


def _conversations(measurement: Measurement) -> Mapping[str, int]:
    if not measurement.talks:
        return {}
    ended = {how: measurement.talked_by[how] for how in ("whole", "broken", "stopped")}
    return {"begun": measurement.talks, **ended}


def _lengths(samples: Samples) -> Mapping[str, Lengths]:
    columns = {
        "request_bytes": samples.sent,
        "request_tokens": samples.input_tokens,
        "response_bytes": samples.received,
        "response_tokens": samples.tokens,
    }
    found: dict[str, Lengths] = {}
    for name, column in columns.items():
        known = name != "request_tokens"
        ranked = sorted(
            length for length, good in zip(column, samples.good, strict=True) if good and (known or length)
        )
        if ranked and ranked[-1]:
            p50, p90 = (ranked[min(len(ranked) - 1, int(share * len(ranked)))] for share in (0.5, 0.9))
            found[name] = Lengths(sum(ranked) / len(ranked), p50, p90, ranked[-1])
    return found


def _missed(measurement: Measurement, goal: int) -> float:
    """The share of requests; one that has not ended has missed."""
    missed = sum(bits >> goal & 1 for bits in measurement.samples.missed) + measurement.unfinished
    return missed / measurement.sent if measurement.sent else 0.0


def _cost(per_hour: float | None, measurement: Measurement, seconds: float) -> Cost | None:
    if per_hour is None:
        return None
    return cost_of(per_hour, seconds, measurement.tokens, measurement.workload)


def _spread(histogram: Histogram) -> Spread:
    percentiles = {f"p{percent:g}": value for percent, value in histogram.percentiles(PERCENTS).items()}
    extent = histogram.smallest, histogram.mean, histogram.largest
    return Spread(histogram.count, *extent, percentiles, histogram.encoded())


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
