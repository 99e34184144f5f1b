"""The last minute, second by second."""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyworker.telemetry.causes import shed_cause
from pyworker.telemetry.record import REFUSED, REJECTED, SUCCESS, RequestRecord

#: Seconds that are looked back.
LENGTH = 60
# Latencies of one second that are kept for percentiles.
_MAX_SAMPLES = 200
_PERCENTILES = (50, 90, 99)
# Outcomes that have a cause.
_SHED = (REFUSED, REJECTED)


@dataclass
class _Second:
    at: int
    outcomes: Counter[str] = field(default_factory=Counter[str])
    shed: Counter[str] = field(default_factory=Counter[str])
    causes: Counter[str] = field(default_factory=Counter[str])
    work: float = 0.0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    totals: list[float] = field(default_factory=list[float])
    first_bytes: list[float] = field(default_factory=list[float])


class Window:
    """Rates and percentiles of the last minute, in bounded memory. Thread-safe. now: epoch seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Guards _seconds, newest last.
        self._lock = threading.Lock()
        self._seconds: deque[_Second] = deque(maxlen=LENGTH)

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Count these requests."""
        with self._lock:
            for at, group in itertools.groupby(records, lambda record: int(record.ended_at)):
                _count(self._second(at), list(group))

    def _second(self, at: int) -> _Second:
        # A clock that was set back counts as standing still.
        if not self._seconds or self._seconds[-1].at < at:
            self._seconds.append(_Second(at))
        return self._seconds[-1]

    def summary(self) -> Mapping[str, object]:
        """Of the last 60 s: numbers of requests, workload and tokens per second, and percentiles in
        seconds.
        """
        oldest = self._now() - LENGTH
        with self._lock:
            seconds = [second for second in self._seconds if second.at > oldest]
        outcomes = sum((second.outcomes for second in seconds), Counter[str]())
        shed = sum((second.shed for second in seconds), Counter[str]())
        causes = sum((second.causes for second in seconds), Counter[str]())
        return {
            "requests_per_second": round(sum(outcomes.values()) / LENGTH, 3),
            "outcomes": dict(outcomes),
            "refused_by_status": dict(shed),
            "shed_by_reason": dict(causes),
            "workload_per_second": _rate(second.work for second in seconds),
            "prompt_tokens_per_second": _rate(second.prompt_tokens for second in seconds),
            "generation_tokens_per_second": _rate(second.generation_tokens for second in seconds),
            "latency_seconds": _percentiles([value for second in seconds for value in second.totals]),
            "first_byte_seconds": _percentiles([value for second in seconds for value in second.first_bytes]),
        }

    def by_second(self) -> Mapping[str, Sequence[float | None]]:
        """Of each of the last 60 whole seconds, oldest first: requests that succeeded, that ended otherwise,
        and that were refused; workload done; tokens generated; percentiles of the latency in seconds, None
        without a request.
        """
        end = int(self._now())
        with self._lock:
            found = {second.at: second for second in self._seconds}
        empty = _Second(0)
        seconds = [found.get(at, empty) for at in range(end - LENGTH, end)]
        latency = [_percentiles(list(second.totals)) for second in seconds]
        succeeded = [second.outcomes[SUCCESS] for second in seconds]
        return {
            "succeeded": succeeded,
            "failed": [
                sum(second.outcomes.values()) - good for second, good in zip(seconds, succeeded, strict=True)
            ],
            "refused": [sum(second.shed.values()) for second in seconds],
            "workload": [round(second.work, 3) for second in seconds],
            "tokens": [second.generation_tokens for second in seconds],
            **{name: [one.get(name) for one in latency] for name in ("p50", "p99")},
        }

    def __repr__(self) -> str:
        return f"<Window [{len(self._seconds)} seconds]>"


def _count(second: _Second, records: Sequence[RequestRecord]) -> None:
    """Add them to their second, the batch as a whole."""
    for record in records:
        if record.outcome in _SHED and (cause := shed_cause(record)):
            second.causes[cause] += 1
    ended = [record for record in records if record.outcome != REFUSED]
    if len(ended) < len(records):
        second.shed.update([str(record.status) for record in records if record.outcome == REFUSED])
    second.outcomes.update([record.outcome for record in ended])
    second.work += sum([record.work or 0.0 for record in ended])
    second.prompt_tokens += sum([record.prompt_tokens or 0 for record in ended])
    second.generation_tokens += sum([record.generation_tokens or 0 for record in ended])
    sampled = ended[: _MAX_SAMPLES - len(second.totals)]
    second.totals += [record.total for record in sampled]
    second.first_bytes += [record.total_to_first_byte for record in sampled if record.first_byte is not None]


def _rate(values: Iterable[float]) -> float:
    return round(sum(values) / LENGTH, 3)


def _percentiles(values: list[float]) -> Mapping[str, float]:
    """The nearest-rank percentiles; empty without values."""
    values.sort()
    return {
        f"p{percent}": round(values[max(-(-len(values) * percent // 100) - 1, 0)], 6)
        for percent in _PERCENTILES
        if values
    }
